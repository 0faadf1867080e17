"""The runs of `make test-gpu`, short, each named after what it is there for, and shared by the tests.

Not yet run on a GPU. test_gpu_dry.py plans each of them for an H200 on any machine.
"""

from __future__ import annotations

BASE = ("model=llama-3.2-1b", "sequence_length=1024", "measurement=quick", "tracking=none", "parallelism.num_devices=1")
HF, LORA = "framework=hf_trainer", "mode=lora"
PROFILED = ("measurement.profile_flops=true", "measurement.warmup_steps=3")  # three are what it takes
RUNS: dict[str, tuple[str, ...]] = {
    "hf_trainer": (
        HF,
        LORA,
        "liger_kernel=true",
        "hardware.measure_ceiling=true",
        "measurement.profile_flops=true",
        "measurement.warmup_steps=3",
    ),
    "llmforge": ("framework=llmforge", LORA, "parallelism=zero2", "gradient_checkpointing=reentrant"),
    "fsdp2": (HF, "parallelism=fsdp2"),
    "torch_compile": (HF, LORA, "torch_compile=true"),
    "eager": (HF, LORA, "attention=eager"),
    "qlora": (HF, "mode=qlora"),
    "tf32": (HF, "precision=fp32"),
    "flash_attention_2": (HF, LORA, "attention=flash_attention_2"),
    "axolotl": ("framework=axolotl", LORA, "parallelism=zero2"),  # any parallelism but single starts torchrun
    "torchtune": ("framework=torchtune", LORA, "precision=bf16_pure"),
    "litgpt": ("framework=litgpt", LORA, "precision=bf16_pure", "model.architecture.tie_word_embeddings=false"),
    # the logits alone are 512 × 2048 × 128,256 numbers of 2 bytes: 251 GiB
    "out_of_memory": (HF, "batch_size=512", "sequence_length=2048", "measurement.steps=4"),
}
