"""Stripe's official Python SDK as a client, unchanged but for the address."""

import contextlib
import datetime
import socket
import sys
import threading
import time
import unittest
import warnings

import stripe

from host import Host, PATIENCE_SECS, send

HOST = None
STRANGER = None

# The permissions of the keys that tests of the API itself use.
SECRET = ("--kind", "secret")


def setUpModule():
    global HOST, STRANGER
    HOST = Host()
    # Its keys are well formed and unknown here.
    STRANGER = Host()


def tearDownModule():
    HOST.stop()
    STRANGER.stop()


def client(secret, host=None, **options):
    base = {"api": (host or HOST).gate}
    return stripe.StripeClient(secret, base_addresses=base, **options)


def in_seconds(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class Api(unittest.TestCase):
    """What is let through is served as the SDK expects it."""

    @classmethod
    def setUpClass(cls):
        cls.v1 = client(HOST.key(*SECRET)).v1

    def test_customers(self):
        customers = self.v1.customers
        made = customers.create(
            {"name": "Ada", "email": "ada@example.com", "metadata": {"order": "17", "a b": "c&d"}}
        )
        self.assertIsInstance(made, stripe.Customer)
        self.assertTrue(made.id.startswith("cus_"))
        self.assertEqual(made.metadata["a b"], "c&d")
        self.assertFalse(made.livemode)
        self.assertEqual(customers.retrieve(made.id).email, "ada@example.com")
        changed = customers.update(made.id, {"name": "Ada L.", "metadata": {"order": ""}})
        self.assertEqual((changed.name, changed.email), ("Ada L.", "ada@example.com"))
        self.assertNotIn("order", changed.metadata)
        self.assertTrue(customers.delete(made.id).deleted)
        with self.assertRaises(stripe.InvalidRequestError) as raised:
            customers.retrieve(made.id)
        self.assertEqual(raised.exception.code, "resource_missing")

    def test_products_and_prices(self):
        product = self.v1.products.create({"name": "Tea", "active": True})
        self.assertIsInstance(product, stripe.Product)
        self.assertIs(product.active, True)
        price = self.v1.prices.create(
            {
                "product": product.id,
                "currency": "eur",
                "unit_amount": 450,
                "recurring": {"interval": "month", "interval_count": 3},
            }
        )
        self.assertIsInstance(price, stripe.Price)
        self.assertEqual((price.unit_amount, price.recurring.interval_count), (450, 3))
        self.assertEqual(self.v1.prices.retrieve(price.id).product, product.id)
        self.assertFalse(self.v1.prices.update(price.id, {"active": False}).active)
        listed = self.v1.prices.list({"product": product.id})
        self.assertEqual([one.id for one in listed.data], [price.id])
        self.assertEqual(self.v1.products.update(product.id, {"name": "Chai"}).name, "Chai")
        self.assertIn(product.id, [one.id for one in self.v1.products.list().data])
        self.assertTrue(self.v1.products.delete(product.id).deleted)

    def test_payment_intents_and_refunds(self):
        intents = self.v1.payment_intents
        made = intents.create({"amount": 1200, "currency": "usd", "payment_method_types": ["card"]})
        self.assertIsInstance(made, stripe.PaymentIntent)
        self.assertEqual((made.amount, made.payment_method_types), (1200, ["card"]))
        self.assertTrue(made.client_secret.startswith(made.id + "_secret_"))
        self.assertEqual(intents.retrieve(made.id).status, "requires_payment_method")
        self.assertEqual(intents.update(made.id, {"amount": 1500}).amount, 1500)
        self.assertEqual(intents.confirm(made.id).status, "succeeded")
        self.assertIn(made.id, [one.id for one in intents.list({"limit": 100}).data])
        refund = self.v1.refunds.create({"payment_intent": made.id, "amount": 500})
        self.assertIsInstance(refund, stripe.Refund)
        self.assertEqual(refund.amount, 500)
        self.assertEqual(self.v1.refunds.retrieve(refund.id).payment_intent, made.id)
        other = intents.create({"amount": 100, "currency": "usd"})
        self.assertEqual(intents.cancel(other.id).status, "canceled")

    def test_lists_go_on_over_pages(self):
        # An account of its own, so that nothing else is in the list.
        account = HOST.ask_admin("/v2/accounts", {"name": "Many customers"})["id"]
        customers = client(HOST.key(*SECRET, "--account", account)).v1.customers
        made = [customers.create({"name": f"number {n}"}).id for n in range(25)]
        page = customers.list({"limit": 10})
        self.assertEqual((len(page.data), page.has_more, page.url), (10, True, "/v1/customers"))
        self.assertEqual([one.id for one in page.auto_paging_iter()], made[::-1])
        backwards = customers.list({"limit": 10, "ending_before": made[0]})
        self.assertEqual([one.id for one in backwards.auto_paging_iter()], made[1:])

    def test_the_balance_is_a_single_object(self):
        self.assertEqual(self.v1.balance.retrieve().object, "balance")

    def test_a_retry_with_the_same_key_does_nothing_twice(self):
        params, options = {"name": "once"}, {"idempotency_key": f"retry-{time.time_ns()}"}
        first = self.v1.customers.create(params, options)
        second = self.v1.customers.create(params, options)
        self.assertEqual(first.id, second.id)
        self.assertNotIn("idempotent-replayed", first.last_response.headers)
        self.assertEqual(second.last_response.headers["idempotent-replayed"], "true")
        with self.assertRaises(stripe.IdempotencyError):
            self.v1.customers.create({"name": "another"}, options)

    def test_an_answer_that_gets_lost_is_asked_for_again(self):
        account = HOST.ask_admin("/v2/accounts", {"name": "Bad line"})["id"]
        secret = HOST.key(*SECRET, "--account", account)
        with losing_first_answer(HOST.gate) as (base, connections):
            lossy = stripe.StripeClient(
                secret, base_addresses={"api": base}, max_network_retries=3
            )
            made = lossy.v1.customers.create({"name": "once"})
        self.assertGreater(len(connections), 1)
        listed = client(secret).v1.customers.list()
        self.assertEqual([one.id for one in listed.data], [made.id])

    def test_every_answer_names_its_request(self):
        response = self.v1.customers.list().last_response
        self.assertTrue(response.request_id.startswith("req_"))
        self.assertEqual(response.headers["stripe-version"], stripe.api_version)

    def test_live_and_test_objects_are_apart(self):
        live = client(HOST.key(*SECRET, "--live")).v1
        made = live.customers.create({"name": "real"})
        self.assertTrue(made.livemode)
        self.assertNotIn(made.id, [one.id for one in self.v1.customers.list().data])

    def test_the_global_style_works_too(self):
        stripe.api_base, stripe.api_key = HOST.gate, HOST.key(*SECRET)
        try:
            made = stripe.Customer.create(name="global", email="g@example.com")
            self.assertEqual(stripe.Customer.retrieve(made.id).name, "global")
            self.assertEqual(stripe.Customer.modify(made.id, name="other").name, "other")
        finally:
            stripe.api_base, stripe.api_key = "https://api.stripe.com", None


class Checks(unittest.TestCase):
    """What a refusal is compared with."""

    def check(self, call, kind, status, code, says, param=None, type="invalid_request_error"):
        """The one place that looks at an error. Every test below is a row."""
        with self.assertRaises(stripe.StripeError) as raised:
            call()
        error = raised.exception
        self.assertIs(error.__class__, kind, error)
        self.assertEqual(error.http_status, status)
        # `code` of the exception itself is empty for some classes of this SDK.
        self.assertEqual(error.error.code, code)
        self.assertEqual(error.error.type, type)
        self.assertEqual(error.error.param, param)
        self.assertIn(says, str(error))
        self.assertTrue(error.request_id.startswith("req_"))
        if kind is stripe.InvalidRequestError:
            self.assertEqual((error.code, error.param), (code, param))
        if status in (401, 403):
            self.assertEqual(error.headers["stripe-should-retry"], "false")
        return error

    def unauthenticated(self, secret, code, says, **options):
        call = client(secret).v1.customers.list
        return self.check(call, stripe.AuthenticationError, 401, code, says, **options)

    def forbidden(self, call, code, says):
        return self.check(call, stripe.PermissionError, 403, code, says)

    def invalid(self, call, status, code, says, param=None):
        return self.check(call, stripe.InvalidRequestError, status, code, says, param)


class Refusals(Checks):
    """Each refusal raises the class that a program for Stripe expects."""

    def test_no_key(self):
        self.unauthenticated("", None, "did not provide an API key")

    def test_keys_that_are_none(self):
        for secret in ["sk_test_nonsense", "nonsense", HOST.key()[:-1] + "!"]:
            error = self.unauthenticated(secret, None, "Invalid API Key provided")
            self.assertNotIn(secret, str(error))

    def test_a_credential_that_cannot_be_read(self):
        error = self.unauthenticated("sk_test_ left over", "authorization_invalid", "no blanks")
        self.assertNotIn("left over", str(error))

    def test_an_unknown_key(self):
        self.unauthenticated(STRANGER.key(), None, "Invalid API Key provided: rk_test_***")

    def test_a_webhook_secret(self):
        secret = "whsec_" + "a" * 32
        error = self.unauthenticated(secret, None, "webhook signing secret")
        self.assertNotIn("a" * 32, str(error))

    def test_a_key_that_ends_while_it_is_used(self):
        secret = HOST.key("--permission", "customer_read", "--expires-at", in_seconds(5))
        customers = client(secret).v1.customers
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            customers.list()
            deadline = time.monotonic() + PATIENCE_SECS
            with self.assertRaises(stripe.AuthenticationError):
                while time.monotonic() < deadline:
                    customers.list()
        self.assertIn("This API key stops working in 1 h.", str(told[0].message))
        error = self.unauthenticated(
            secret, "api_key_expired", "Expired API Key", type="authentication_error"
        )
        self.assertNotIn(secret, str(error))

    def test_a_publishable_key(self):
        customers = client(HOST.key("--kind", "publishable")).v1.customers
        self.forbidden(customers.list, "secret_key_required", "publishable API key")

    def test_a_permission_that_is_missing(self):
        v1 = client(HOST.key("--permission", "customer_read")).v1
        v1.customers.list()
        for call, title, name in [
            (lambda: v1.customers.create({}), "Customers Write", "customer_write"),
            (v1.refunds.list, "Charges and Refunds Read", "charge_read"),
            (lambda: v1.prices.list(), "Plans", "plan_read"),
        ]:
            error = self.forbidden(call, "more_permissions_required", f"('{name}')")
            self.assertIn(title.split()[0], str(error))
            self.assertEqual(error.json_body["error"]["missing_permissions"], [name])

    def test_an_address_that_is_not_allowed(self):
        secret = HOST.key("--permission", "customer_read", "--allow-ip", "10.0.0.0/8,192.0.2.1")
        self.forbidden(client(secret).v1.customers.list, "ip_not_allowed", "(127.0.0.1)")
        secret = HOST.key("--permission", "customer_read", "--allow-ip", "127.0.0.0/8")
        client(secret).v1.customers.list()

    def test_an_account_out_of_reach(self):
        v1 = client(HOST.key(*SECRET)).v1
        for options in [{"stripe_account": "acct_nobody"}, {"stripe_context": "acct_nobody"}]:
            call = lambda: v1.customers.list(options=options)
            self.forbidden(call, "account_invalid", "'acct_nobody'")

    def test_a_connected_account(self):
        connected = HOST.ask_admin(
            "/v2/accounts", {"name": "Connected", "platform": HOST.account}
        )["id"]
        options = {"stripe_account": connected}
        bare = client(HOST.key("--permission", "customer_read")).v1
        call = lambda: bare.customers.list(options=options)
        self.forbidden(call, "more_permissions_required", "does not have any Connect permissions")
        secret = HOST.key("--connect-permission", "customer_write")
        made = client(secret).v1.customers.create({"name": "theirs"}, options)
        own = client(HOST.key(*SECRET, "--account", connected)).v1
        self.assertEqual(own.customers.retrieve(made.id).name, "theirs")
        # Its permissions there are none here.
        self.forbidden(client(secret).v1.customers.list, "more_permissions_required", "customer_")

    def test_the_other_modes_object(self):
        test, live = (client(HOST.key(*SECRET, *mode)).v1 for mode in [[], ["--live"]])
        for makes, asks, hint in [
            (test, live, "exists in test mode, but a live mode key was used"),
            (live, test, "exists in live mode, but a test mode key was used"),
        ]:
            made = makes.customers.create({}).id
            call = lambda: asks.customers.retrieve(made)
            self.invalid(call, 404, "resource_missing", hint, "id")
            intent = {"amount": 100, "currency": "usd", "customer": made}
            call = lambda: asks.payment_intents.create(intent)
            self.invalid(call, 400, "resource_missing", hint, "customer")

    def test_what_is_not_there(self):
        v1 = client(HOST.key(*SECRET)).v1
        call = lambda: v1.customers.retrieve("cus_nobody")
        error = self.invalid(call, 404, "resource_missing", "No such customer: 'cus_nobody'", "id")
        self.assertNotIn("mode", str(error))

    def test_a_path_that_is_not_there(self):
        raw = client(HOST.key(*SECRET)).raw_request
        self.invalid(
            lambda: raw("get", "/v1/nothing"), 404, None, "Unrecognized request URL (GET: /v1/nothing)"
        )

    def test_a_path_that_can_be_read_in_two_ways(self):
        raw = client(HOST.key(*SECRET)).raw_request
        with self.assertRaises(stripe.InvalidRequestError) as raised:
            raw("get", "/v1/customers/%2e%2e/balance")
        self.assertEqual((raised.exception.http_status, raised.exception.code), (400, "path_invalid"))

    def test_a_parameter_of_the_wrong_type(self):
        v1 = client(HOST.key(*SECRET)).v1
        call = lambda: v1.payment_intents.create({"amount": "much", "currency": "usd"})
        self.invalid(call, 400, "parameter_invalid_integer", "Invalid integer", "amount")

    def test_a_sandbox_endpoint_with_a_live_key(self):
        live = client(HOST.key(*SECRET, "--live")).v1
        call = lambda: live.test_helpers.test_clocks.list()
        self.invalid(call, 400, "livemode_mismatch", "test mode only")


class Organizations(Checks):
    """A key of an organization acts on its members, one at a time."""

    @classmethod
    def setUpClass(cls):
        cls.organization = HOST.ask_admin("/v2/organizations", {"name": "Acme Group"})["id"]
        cls.members = []
        for name in ["North", "South"]:
            account = HOST.ask_admin("/v2/accounts", {"name": name})["id"]
            HOST.ask_admin(f"/v2/accounts/{account}", {"organization": cls.organization})
            cls.members.append(account)
        cls.own = ("--kind", "organization", "--account", cls.organization)
        cls.secret = HOST.key(*cls.own, "--permission", "*")

    def test_it_acts_on_the_member_that_it_names(self):
        self.assertTrue(self.secret.startswith("sk_org_test_"))
        customers = client(self.secret).v1.customers
        north, south = ({"stripe_context": account} for account in self.members)
        made = customers.create({"name": "theirs"}, north)
        self.assertEqual(customers.retrieve(made.id, options=north).name, "theirs")
        self.assertEqual(customers.list(options=south).data, [])
        by_default = client(self.secret, stripe_context=self.members[0]).v1.customers
        self.assertEqual([one.id for one in by_default.list().data], [made.id])
        own = client(HOST.key(*SECRET, "--account", self.members[0])).v1.customers
        self.assertEqual(own.retrieve(made.id).id, made.id)

    def test_it_must_name_one(self):
        self.invalid(
            client(self.secret).v1.customers.list,
            400,
            "context_required",
            "Please include the Stripe-Context header",
            "Stripe-Context",
        )

    def test_it_must_name_a_version(self):
        # The SDK always sends one, so that this is a request without it.
        headers = {"Authorization": f"Bearer {self.secret}", "Stripe-Context": self.members[0]}
        status, body = send(HOST.gate + "/v1/customers", headers)
        self.assertEqual((status, body["error"]["code"]), (400, "version_required"))
        self.assertEqual(body["error"]["param"], "Stripe-Version")
        headers["Stripe-Version"] = stripe.api_version
        self.assertEqual(send(HOST.gate + "/v1/customers", headers)[0], 200)

    def test_it_reaches_members_only(self):
        customers = client(self.secret, stripe_context=HOST.account).v1.customers
        self.forbidden(customers.list, "account_invalid", HOST.account)

    def test_its_permissions_can_be_limited(self):
        secret = HOST.key(*self.own, "--permission", "customer_read")
        v1 = client(secret, stripe_context=self.members[0]).v1
        v1.customers.list()
        call = lambda: v1.customers.create({})
        self.forbidden(call, "more_permissions_required", "('customer_write')")


@contextlib.contextmanager
def losing_first_answer(upstream):
    """A way to the host on which the first answer gets lost."""
    host, port = upstream.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def forward(source, target, is_lost):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_lost:
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((host, int(port)))
                connections.append((near, far))
                is_first = len(connections) == 1
                for arguments in [(near, far, False), (far, near, is_first)]:
                    threading.Thread(target=forward, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        listener.close()
        for near, far in connections:
            near.close()
            far.close()


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=2)
    result = program.result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed", flush=True)
    # No test at all is a failure, too.
    sys.exit(failed > 0 or result.testsRun == 0)
