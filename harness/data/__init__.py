"""Data: vocabulary, protocol, prompts, data modules, benchmarks, reading of images."""
