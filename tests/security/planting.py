"""Builds repositories with keys in them. The keys are made at run time, and none is real."""

import base64
import json
import os
import random
import subprocess

_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent",
}  # fmt: skip


def git(folder, *arguments, **more):
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "init.defaultBranch=main", *arguments],
        check=True, capture_output=True, env={**os.environ, **_ENVIRONMENT}, **more,
    ).stdout  # fmt: skip


def made_up_key(rng, *, site=None):
    digits = "".join(rng.choice("0123456789abcdef") for _ in range(34))
    site = rng.random() < 0.5 if site is None else site
    return (
        f"pk_{''.join(rng.choice('ABCxyz123') for _ in range(6))}_{digits}"
        if site
        else f"pk_{digits}"
    )


def _notebook(*source):
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": list(source)}]
    return json.dumps({"cells": cells, "nbformat": 4}, indent=1).encode()


def _halves(key, rng):
    at = rng.randint(4, len(key) - 4)
    return key[:at], key[at:]


def ways(rng):
    """Ways to leave a key in a repository: name of the file, and a function that gives its content."""

    def split(form):
        return lambda key: form.format(*_halves(key, rng)).encode()

    return {
        "settings.py": lambda key: f'import os\n\nKEY = "{key}"\n'.encode(),
        "deep/er/.env": lambda key: f"A=1\nKLAVIYO_API_KEY={key}\n".encode(),
        "deploy.yaml": lambda key: f"env:\n  - name: K\n    value: {key}\n".encode(),
        "config.json": lambda key: json.dumps({"k": [key]}).encode(),
        "curl.sh": lambda key: f"curl -H 'Authorization: Klaviyo-API-Key {key}' x\n".encode(),
        "url.txt": lambda key: f"https://x/?a=1%26api_key%3D{key}%26b".encode(),
        "core.bin": lambda key: (
            rng.randbytes(5000) + b"\0" + key.encode() + b"\0" + rng.randbytes(99)
        ),
        "big.bin": lambda key: b"\0" * (2**22 - rng.randint(0, 50)) + key.encode() + b"\0" * 999,
        "wide.txt": lambda key: f"key {key}\r\n".encode("utf-16"),
        "wide-be.txt": lambda key: f"key {key}\r\n".encode("utf-16-be"),
        "secret.yaml": lambda key: b"data:\n  k: " + base64.b64encode(key.encode()) + b"\n",
        "plain.ipynb": lambda key: _notebook(f'k = "{key}"\n', "run(k)"),
        "split.ipynb": lambda key: _notebook(
            *split('k = ("{0}"\n|     "{1}")')(key).decode().split("|")
        ),
        "page.ipynb": lambda key: _notebook(*split('k = "{0}\\\n|{1}"')(key).decode().split("|")),
        "split.py": split('K = (\n    "{0}"\n    "{1}"\n)\n'),
        "split.js": split('const k = "{0}" +\n  "{1}";\n'),
        "split.sh": split("export K={0}\\\n{1}\n"),
        "split.eml": split("key=3D{0}=\r\n{1}\r\n"),
        "crlf.ini": lambda key: f"[k]\r\nkey = {key}\r\n".encode(),
        "long.min.js": lambda key: b"a=1;" * 50_000 + f'k="{key}"'.encode() + b";b=2" * 50_000,
    }


def build(folder, *, commits=40, keys=200, seed=11):
    """A repository with keys that came in over its history.

    Returns:
        The keys with the name of the file that held each, and the paths that still hold theirs.
    """
    rng = random.Random(seed)
    git(folder, "init", "-q")
    git(folder, "config", "gc.auto", "0")
    names = list(ways(rng).items())
    planted, standing = {}, {}
    each = keys // commits
    for commit in range(commits):
        # What came in two commits ago is deleted, but for one in four.
        for path, (born, number) in list(standing.items()):
            if born == commit - 2 and number % 4:
                git(folder, "rm", "-q", "-f", path)
                del standing[path]
        message = f"commit {commit}"
        for number in range(commit * each, (commit + 1) * each):
            key = made_up_key(rng)
            if number % 50 == 17:
                message += f" with {key}"
                planted[key] = "(commit message)"
                continue
            name, content = names[number % len(names)]
            path = f"d{number}/{name}"
            (folder / path).parent.mkdir(parents=True)
            (folder / path).write_bytes(content(key))
            planted[key] = path
            standing[path] = (commit, number)
        git(folder, "add", "-A", "-f")
        git(folder, "commit", "-q", "--no-verify", "-m", message)
        if commit == 20:
            git(folder, "gc", "-q")
        if commit == 30:
            # A commit that is only in the reflog, and a branch that was merged by nobody.
            git(folder, "checkout", "-q", "-b", "side")
            git(folder, "commit", "-q", "--allow-empty", "-m", "on the side")
            git(folder, "checkout", "-q", "main")
    return planted, set(standing)
