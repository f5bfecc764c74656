def bundle(files: dict[str, bytes]) -> bytes:
    return b""
