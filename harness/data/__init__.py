"""What is segmented, and how it is read: vocabulary, protocol, prompts, data modules, benchmarks, images."""
