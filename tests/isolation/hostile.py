"""A program that tries to get at the service from within: run as code, as a command, as a job.

Standard library only. `attack` returns what it has achieved: for each way whether it worked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_TIME_FOR_ONE = 10
_NUMBERS = {
    "x86_64": {
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "tgkill": 234,
        "rt_sigqueueinfo": 129,
        "umount2": 166,
        "mount": 165,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
    },
    "aarch64": {
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "tgkill": 131,
        "rt_sigqueueinfo": 138,
        "umount2": 39,
        "mount": 40,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
    },
}
_SEIZE, _DETACH = 0x4206, 17
_PIDFD_GETFD = 438
_MS_BIND, _MNT_DETACH = 4096, 2
_HARMLESS = signal.SIGWINCH

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(name: str | int, *arguments: Any) -> int:
    number = name if isinstance(name, int) else _NUMBERS[os.uname().machine][name]
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Target:
    """What is attacked: the service's process, its state directory with a file, its secret."""

    def __init__(self, pid: int, state: str, key: str, secret: str, privileged: str = "") -> None:
        self.pid = pid
        self.state = state
        self.key = key
        self.secret = secret.encode()
        # A program that makes whoever runs it root.
        self.privileged = privileged

    # The memory of the service, by everything that shows it.

    def read_environ(self) -> bool:
        with open(f"/proc/{self.pid}/environ", "rb") as file:
            file.read()
        return True

    def read_memory(self) -> bool:
        with open(f"/proc/{self.pid}/maps") as file:
            maps = file.read().splitlines()
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                if " rw" in line:
                    memory.seek(int(line.split("-")[0], 16))
                    return bool(memory.read(16))
        return False

    def open_memory_for_writing(self) -> bool:
        os.close(os.open(f"/proc/{self.pid}/mem", os.O_RDWR))
        return True

    def trace(self) -> bool:
        _call("ptrace", _SEIZE, self.pid, 0, 0)
        return True

    def read_by_process_vm(self) -> bool:
        return self._process_vm("process_vm_readv")

    def write_by_process_vm(self) -> bool:
        return self._process_vm("process_vm_writev")

    def _process_vm(self, name: str) -> bool:
        buffer = ctypes.create_string_buffer(8)
        ours = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
        # Nothing is there: who may look is told so.
        theirs = (ctypes.c_size_t * 2)(8, 8)
        try:
            _call(name, self.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
        except OSError as error:
            return error.errno == errno.EFAULT
        return True

    # Its descriptors and its view of the file system.

    def see_descriptors(self) -> bool:
        return bool(os.readlink(f"/proc/{self.pid}/fd/0"))

    def open_descriptors(self) -> bool:
        return any(os.path.exists(f"/proc/{self.pid}/fd/{number}") for number in range(64))

    def take_descriptors(self) -> bool:
        pidfd = os.pidfd_open(self.pid)
        return _call(_PIDFD_GETFD, pidfd, 0, 0) >= 0

    def enter_its_root(self) -> bool:
        return bool(os.listdir(f"/proc/{self.pid}/root/"))

    def enter_its_directory(self) -> bool:
        os.listdir(f"/proc/{self.pid}/cwd/")
        return True

    def read_key_through_its_root(self) -> bool:
        return self._read(f"/proc/{self.pid}/root{self.key}")

    def read_key_through_the_first_process(self) -> bool:
        return self._read(f"/proc/1/root{self.key}")

    def enter_its_namespaces(self) -> bool:
        descriptor = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY)
        return int(_libc.setns(descriptor, 0)) == 0

    # Signals and limits.

    def signal_it(self) -> bool:
        os.kill(self.pid, _HARMLESS)
        return True

    def stop_it(self) -> bool:
        os.kill(self.pid, signal.SIGSTOP)
        os.kill(self.pid, signal.SIGCONT)
        return True

    def signal_its_thread(self) -> bool:
        return _call("tgkill", self.pid, self.pid, int(_HARMLESS)) == 0

    def queue_a_signal(self) -> bool:
        info = ctypes.create_string_buffer(struct.pack("=iii", _HARMLESS, 0, -1), 128)
        return _call("rt_sigqueueinfo", self.pid, int(_HARMLESS), ctypes.byref(info)) == 0

    def signal_by_descriptor(self) -> bool:
        signal.pidfd_send_signal(os.pidfd_open(self.pid), _HARMLESS)
        return True

    def signal_its_group(self) -> bool:
        # To the system 0 is our own, which it says of a group that is led from outside of this
        # container, and 1 are all processes.
        group = os.getpgid(self.pid)
        if group > 1:
            os.killpg(group, _HARMLESS)
        return group > 1

    def limit_it(self) -> bool:
        resource.prlimit(self.pid, resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))
        return True

    # What the system thinks of it.

    def have_it_killed_first(self) -> bool:
        return self._open_of_any_thread("oom_score_adj")

    def clear_its_references(self) -> bool:
        return self._open_of_any_thread("clear_refs")

    def _open_of_any_thread(self, name: str) -> bool:
        # A thread's directory is there, although it is not listed.
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(OSError):
                os.close(os.open(f"/proc/{thread}/{name}", os.O_WRONLY))
                return True
        return False

    # Its state directory.

    def list_state(self) -> bool:
        return bool(os.listdir(self.state))

    def read_key(self) -> bool:
        return self._read(self.key)

    def read_key_through_own_root(self) -> bool:
        return self._read(f"/proc/self/root{self.key}")

    def read_key_by_link(self) -> bool:
        link = f"link-{os.getpid()}"
        os.symlink(self.key, link)
        try:
            return self._read(link)
        finally:
            os.unlink(link)

    def link_key(self) -> bool:
        link = f"hard-link-{os.getpid()}"
        os.link(self.key, link)
        os.unlink(link)
        return True

    def write_state(self) -> bool:
        path = os.path.join(self.state, "planted")
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
        return True

    def overwrite_key(self) -> bool:
        os.close(os.open(self.key, os.O_WRONLY))
        return True

    def change_modes(self) -> bool:
        os.chmod(self.state, stat.S_IMODE(os.stat(self.state).st_mode))
        return True

    def move_state(self) -> bool:
        return self._move(self.state)

    def move_parent_of_state(self) -> bool:
        return self._move(os.path.dirname(self.state))

    def exchange_state(self) -> bool:
        os.rmdir(self.state)
        os.mkdir(self.state)
        return True

    def _move(self, path: str) -> bool:
        os.rename(path, path + "-moved")
        os.rename(path + "-moved", path)
        return True

    def uncover_state(self) -> bool:
        _call("umount2", self.state.encode(), _MNT_DETACH)
        return self._read(self.key)

    def uncover_state_as_root_of_a_namespace(self) -> bool:
        line = f"umount -l {self.state}; cat {self.key}"
        return self._told(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", line])

    def bind_state_elsewhere(self) -> bool:
        place = f"bound-{os.getpid()}"
        os.mkdir(place)
        try:
            parent = os.path.dirname(self.state).encode()
            _call("mount", parent, place.encode(), 0, _MS_BIND, 0)
            _call("umount2", place.encode(), _MNT_DETACH)
            return True
        finally:
            os.rmdir(place)

    def change_root(self) -> bool:
        os.chroot("/proc/1/root")
        return self._read(self.key)

    def open_by_handle(self) -> bool:
        handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
        mount = ctypes.c_int()
        _call("name_to_handle_at", -100, b"/", ctypes.byref(handle), ctypes.byref(mount), 0)
        folder = os.open("/", os.O_RDONLY)
        return _call("open_by_handle_at", folder, ctypes.byref(handle), os.O_RDONLY) >= 0

    # The system below it.

    def read_a_disk(self) -> bool:
        for folder in ("/dev", "/dev/mapper"):
            for entry in os.scandir(folder) if os.path.isdir(folder) else ():
                if stat.S_ISBLK(os.stat(entry.path).st_mode):
                    with open(entry.path, "rb", buffering=0) as disk:
                        if disk.read(512):
                            return True
        return False

    def make_a_disk(self) -> bool:
        path = f"disk-{os.getpid()}"
        os.mknod(path, stat.S_IFBLK | 0o600, os.stat("/").st_dev)
        os.unlink(path)
        return True

    def have_the_system_run_a_program(self) -> bool:
        with open("/proc/sys/kernel/core_pattern", "r+") as file:
            file.write(file.read())
        return True

    def write_settings_of_the_system(self) -> bool:
        os.close(os.open("/sys/kernel/mm/transparent_hugepage/enabled", os.O_WRONLY))
        return True

    def leave_its_memory_group(self) -> bool:
        for path in ("/sys/fs/cgroup/memory/tasks", "/sys/fs/cgroup/cgroup.procs"):
            if os.path.exists(path):
                os.close(os.open(path, os.O_WRONLY))
                return True
        return False

    # What others send to it, their tokens among it.

    def sniff_packets(self) -> bool:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sniffer:
            sniffer.bind(("lo", 0))
            return self._sniffs(sniffer)

    def sniff_segments(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sniffer:
            return self._sniffs(sniffer)

    def _sniffs(self, sniffer: socket.socket) -> bool:
        sniffer.settimeout(0.1)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as client,
        ):
            # Whoever sniffs too slowly for what others send misses some.
            for _ in range(50):
                client.send(b"Bearer token")
                with contextlib.suppress(TimeoutError):
                    for _ in range(1000):
                        if b"Bearer token" in sniffer.recv(65536):
                            return True
        return False

    def become_root(self) -> bool:
        return (
            "euid=0"
            in subprocess.run([self.privileged], capture_output=True, text=True, check=False).stdout
        )

    def find_secret_in_own_environment(self) -> bool:
        with open("/proc/self/environ", "rb") as file:
            return self.secret in file.read()

    def find_descriptors_of_the_service(self) -> bool:
        """Nothing of it may be open here: files in its state directory, its sockets' listeners."""
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith(self.state + "/"):
                    return True
            except OSError:
                continue
        return False

    def _read(self, path: str) -> bool:
        with open(path, "rb") as file:
            return bool(file.read())

    def _told(self, command: list[str]) -> bool:
        done = subprocess.run(command, capture_output=True, check=False)
        return self.secret in done.stdout


def _ways(target: Target) -> dict[str, Callable[[], bool]]:
    names = [name for name in vars(Target) if not name.startswith("_")]
    if not target.privileged:
        names.remove("become_root")
    return {name: getattr(target, name) for name in names}


def _try(way: Callable[[], bool]) -> str:
    """In a process of its own: some ways end it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.alarm(_TIME_FOR_ONE)
            try:
                told = "worked" if way() else "refused"
            except OSError as error:
                told = "refused: " + (error.strerror or str(error))
            os.write(writer, told.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told or "ended"


def attack(*arguments: Any) -> dict[str, str]:
    """What came of each way."""
    target = Target(*arguments)
    return {name: _try(way) for name, way in _ways(target).items()}


if __name__ == "__main__":
    print(json.dumps(attack(*json.loads(sys.argv[1]))))
