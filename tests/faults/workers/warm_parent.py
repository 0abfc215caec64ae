"""A process that has imported everything, and forks programs from itself when told to.

Importing the SDK takes a second or two, a fork some milliseconds: so a test can start and kill
hundreds of real processes. Commands come as JSON lines on standard input, answers go out likewise.
"""

import gc
import json
import os
import sys

import programs


def main(url: str) -> None:
    programs.warm_up(url)
    gc.collect()
    gc.freeze()
    _answer({"ready": True})
    groups: dict[int, tuple[int, int]] = {}
    while line := sys.stdin.buffer.readline():
        command = json.loads(line)
        if command["do"] == "fork":
            go_read, go_write = os.pipe()
            life_read, life_write = os.pipe()
            pid = os.fork()
            if pid == 0:
                for fd in (go_write, life_read, *sum(groups.values(), ())):
                    os.close(fd)
                return _run(command, go_read)
            # Here too: a group that is killed before its first process has run must be one already.
            os.setpgid(pid, pid)
            os.close(go_read)
            os.close(life_write)
            groups[pid] = (go_write, life_read)
            _answer({"pid": pid})
        elif command["do"] == "go":
            os.write(groups[command["pid"]][0], b"g")
            _answer({})
        else:
            go_write, life_read = groups.pop(command["pid"])
            os.close(go_write)
            status = os.waitpid(command["pid"], 0)[1]
            # Processes that the program forked hold the pipe open as long as they live.
            while os.read(life_read, 4096):
                pass
            os.close(life_read)
            _answer({"status": os.waitstatus_to_exitcode(status)})
    return None


def _answer(facts: dict) -> None:
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n")
    sys.stdout.buffer.flush()


def _run(command: dict, go: int) -> None:
    """In the child: become the program. It ends as any program does, exit handlers included."""
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number, name in ((1, "stdout"), (2, "stderr")):
        fd = os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(command["folder"])
    if not os.read(go, 1):
        os._exit(9)  # the test has gone away
    os.close(go)
    getattr(programs, command["program"])(**command["arguments"])


if __name__ == "__main__":
    main(*sys.argv[1:])
