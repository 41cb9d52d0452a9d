"""Verification codes by mail, through a mail server that is not ours."""

import queue
import re
import socket
import sys
import unittest

from aiosmtpd.controller import Controller

from host import Host, PATIENCE_SECS

LIVE_KEY = {"kind": "secret", "name": "by mail\r\nBcc: stranger@example.com", "livemode": True}
PATH = "/v2/iam/api_keys"


class Inbox:
    """Keeps what comes in."""

    def __init__(self):
        self.mails = queue.Queue()

    async def handle_DATA(self, server, session, envelope):
        self.mails.put(envelope)
        return "250 OK"


class Codes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.inbox = Inbox()
        # The controller looks for itself where it was told to listen, so that it
        # cannot be left to find a port.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        cls.server = Controller(cls.inbox, hostname="127.0.0.1", port=port)
        cls.server.start()
        cls.host = Host(
            "--verification=smtp",
            f"--smtp-url=smtp://127.0.0.1:{port}",
            "--smtp-from=wardkey@example.com",
            "--verification-to=operator@example.com",
        )

    @classmethod
    def tearDownClass(cls):
        cls.host.stop()
        cls.server.stop()

    def keys(self):
        return [key["id"] for key in self.host.command("keys", "list")]

    def test_a_live_key_is_made_with_the_code_of_the_mail_and_with_no_other(self):
        wanted = LIVE_KEY | {"name": "by mail"}
        before = self.keys()
        status, answer = self.host.try_admin(PATH, wanted)
        self.assertEqual((status, answer["error"]["code"]), (403, "verification_required"))
        challenge = answer["error"]["verification"]
        self.assertEqual(challenge["sent_to"], "o***@example.com")

        mail = self.inbox.mails.get(timeout=PATIENCE_SECS)
        self.assertEqual(mail.rcpt_tos, ["operator@example.com"])
        text = mail.content.decode()
        self.assertIn("by mail", text)
        code = re.search(r"\b\d{6}\b", text.split("\r\n\r\n", 1)[1]).group()
        self.assertNotIn(code, str(answer))

        wrong = f"{(int(code) + 1) % 1_000_000:06}"
        for presented, expected in [(wrong, 403), (code, 201), (code, 403)]:
            header = {"Wardkey-Verification": f"{challenge['id']}:{presented}"}
            status, answer = self.host.try_admin(PATH, wanted, **header)
            self.assertEqual(status, expected, answer)
        self.assertEqual(len(self.keys()), len(before) + 1)
        self.assertTrue(self.inbox.mails.empty())

    def test_a_name_that_would_add_a_header_makes_no_key_and_sends_nothing(self):
        before = self.keys()
        status, answer = self.host.try_admin(PATH, LIVE_KEY)
        self.assertEqual((status, answer["error"]["param"]), (400, "name"))
        self.assertTrue(self.inbox.mails.empty())
        self.assertEqual(self.keys(), before)


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=2)
    result = program.result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed", flush=True)
    # No test at all is a failure, too.
    sys.exit(failed > 0 or result.testsRun == 0)
