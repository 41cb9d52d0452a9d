"""Runs the real program on free ports, in a data directory of its own."""

import json
import os
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request

# How long to wait for a process. Only a failure waits this long.
PATIENCE_SECS = 60

PROGRAM = os.environ.get("WARDKEY_BIN", "")


class Host:
    """A host that serves the simulated API, until `stop`."""

    def __init__(self, *args):
        if not os.path.isfile(PROGRAM):
            raise SystemExit("WARDKEY_BIN must name the program, as `cargo build` makes it")
        self._folder = tempfile.TemporaryDirectory()
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("WARDKEY_")
        }
        self._log = open(os.path.join(self._folder.name, "stderr"), "w+")
        self._process = subprocess.Popen(
            [PROGRAM]
            + ["--listen", "127.0.0.1:0"]
            + ["--admin-listen", "127.0.0.1:0"]
            + ["--internal-listen", "127.0.0.1:0"]
            # Where nobody sits that could confirm, nobody is asked.
            + (list(args) or ["--verification", "none"]),
            cwd=self._folder.name,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.gate = self._address("gate")
        self.admin = self._address("admin")
        self.account = self.command("keys", "list")[0]["account"]

    def _address(self, listener):
        deadline = threading.Timer(PATIENCE_SECS, self._process.kill)
        deadline.start()
        try:
            for line in self._process.stdout:
                words = line.split()
                if words[:1] == [listener]:
                    return "/".join(words[1].split("/")[:3])
        finally:
            deadline.cancel()
        self._log.seek(0)
        raise AssertionError(f"no line for the {listener}: {self._log.read()}")

    def stop(self):
        """Stops the host, and checks that it ends well."""
        self._process.terminate()
        try:
            code = self._process.wait(PATIENCE_SECS)
        finally:
            self._process.kill()
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()
        assert code == 0, f"the host ended with {code}"

    def command(self, *args):
        """Runs a command, and returns the JSON that it prints."""
        ended = subprocess.run(
            [PROGRAM, *args, "--json"],
            cwd=self._folder.name,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECS,
        )
        assert ended.returncode == 0, f"{args}: {ended.stderr}"
        return json.loads(ended.stdout)

    def key(self, *args):
        """Makes a key, as a rule of the first account, and returns its secret."""
        if "--account" not in args:
            args += ("--account", self.account)
        made = self.command("keys", "create", "--name", "a key", *args)
        return made.get("secret_key", made.get("publishable_key"))["token"]

    def ask_admin(self, path, body):
        """Asks the admin API as the operator, who is given what it asks for."""
        status, answer = self.try_admin(path, body)
        assert status in (200, 201), answer
        return answer

    def try_admin(self, path, body, **headers):
        """Asks the admin API as the operator, and returns the status and the JSON."""
        with open(os.path.join(self._folder.name, "wardkey-data", "operator.secret")) as file:
            operator = file.read().strip()
        headers = {"Authorization": f"Bearer {operator}"} | headers
        return send(self.admin + path, headers, json.dumps(body))


def send(url, headers, body=None):
    """Sends a request as no SDK would, and returns the status and the JSON."""
    request = urllib.request.Request(url, headers=headers)
    if body is not None:
        request.data = body.encode()
        request.add_header("Content-Type", "application/json")
    # Never by way of a proxy: the host is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE_SECS) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
