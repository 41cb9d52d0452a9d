// Stripe's official Node SDK as a client, unchanged but for the address.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';

import Stripe from 'stripe';

import { Host } from './host.js';

// How long to wait for what happens by itself. Only a failure waits this long.
const PATIENCE_MS = 60_000;

const SECRET = ['--kind', 'secret'];

let host;
// Its keys are well formed and unknown here.
let stranger;

before(async () => {
  [host, stranger] = await Promise.all([Host.start(), Host.start()]);
});

after(() => Promise.all([host.stop(), stranger.stop()]));

function client(secret, options = {}) {
  const { hostname, port } = options.at ?? host.gate;
  const retries = options.maxNetworkRetries ?? 0;
  return new Stripe(secret, {
    host: hostname,
    port,
    protocol: 'http',
    maxNetworkRetries: retries,
    stripeContext: options.stripeContext,
  });
}

const inSeconds = (seconds) => new Date(Date.now() + seconds * 1000).toISOString();

async function all(list) {
  const ids = [];
  for await (const one of list) ids.push(one.id);
  return ids;
}

describe('what is let through is served as the SDK expects it', () => {
  let stripe;
  before(() => {
    stripe = client(host.key(...SECRET));
  });

  test('customers', async () => {
    const { customers } = stripe;
    const made = await customers.create({
      name: 'Ada',
      email: 'ada@example.com',
      metadata: { order: '17', 'a b': 'c&d' },
    });
    assert.match(made.id, /^cus_/);
    assert.equal(made.metadata['a b'], 'c&d');
    assert.equal(made.livemode, false);
    assert.equal((await customers.retrieve(made.id)).email, 'ada@example.com');
    const changed = await customers.update(made.id, { name: 'Ada L.', metadata: { order: '' } });
    assert.deepEqual([changed.name, changed.email], ['Ada L.', 'ada@example.com']);
    assert.equal('order' in changed.metadata, false);
    assert.equal((await customers.del(made.id)).deleted, true);
    await assert.rejects(customers.retrieve(made.id), { code: 'resource_missing' });
  });

  test('products and prices', async () => {
    const { products, prices } = stripe;
    const product = await products.create({ name: 'Tea', active: true });
    assert.equal(product.active, true);
    const price = await prices.create({
      product: product.id,
      currency: 'eur',
      unit_amount: 450,
      recurring: { interval: 'month', interval_count: 3 },
    });
    assert.deepEqual([price.unit_amount, price.recurring.interval_count], [450, 3]);
    assert.equal((await prices.retrieve(price.id)).product, product.id);
    assert.equal((await prices.update(price.id, { active: false })).active, false);
    const listed = await prices.list({ product: product.id });
    assert.deepEqual(listed.data.map((one) => one.id), [price.id]);
    assert.equal((await products.update(product.id, { name: 'Chai' })).name, 'Chai');
    assert.equal((await products.del(product.id)).deleted, true);
  });

  test('payment intents and refunds', async () => {
    const { paymentIntents, refunds } = stripe;
    const made = await paymentIntents.create({
      amount: 1200,
      currency: 'usd',
      payment_method_types: ['card'],
    });
    assert.deepEqual([made.amount, made.payment_method_types], [1200, ['card']]);
    assert.ok(made.client_secret.startsWith(`${made.id}_secret_`));
    assert.equal((await paymentIntents.retrieve(made.id)).status, 'requires_payment_method');
    assert.equal((await paymentIntents.update(made.id, { amount: 1500 })).amount, 1500);
    assert.equal((await paymentIntents.confirm(made.id)).status, 'succeeded');
    const refund = await refunds.create({ payment_intent: made.id, amount: 500 });
    assert.equal((await refunds.retrieve(refund.id)).amount, 500);
    const other = await paymentIntents.create({ amount: 100, currency: 'usd' });
    assert.equal((await paymentIntents.cancel(other.id)).status, 'canceled');
  });

  test('lists go on over pages', async () => {
    // An account of its own, so that nothing else is in the list.
    const { id } = await host.askAdmin('/v2/accounts', { name: 'Many customers' });
    const { customers } = client(host.key(...SECRET, '--account', id));
    const made = [];
    for (let n = 0; n < 25; n += 1) made.push((await customers.create({ name: `number ${n}` })).id);
    const page = await customers.list({ limit: 10 });
    assert.deepEqual([page.data.length, page.has_more, page.url], [10, true, '/v1/customers']);
    assert.deepEqual(await all(customers.list({ limit: 10 })), made.toReversed());
    const backwards = customers.list({ limit: 10, ending_before: made[0] });
    assert.deepEqual(await all(backwards), made.slice(1));
  });

  test('a retry with the same key does nothing twice', async () => {
    const options = { idempotencyKey: `retry-${Date.now()}` };
    const first = await stripe.customers.create({ name: 'once' }, options);
    const second = await stripe.customers.create({ name: 'once' }, options);
    assert.equal(first.id, second.id);
    assert.equal(second.lastResponse.headers['idempotent-replayed'], 'true');
    await assert.rejects(stripe.customers.create({ name: 'another' }, options), {
      type: 'StripeIdempotencyError',
    });
  });

  test('an answer that gets lost is asked for again', async () => {
    const { id } = await host.askAdmin('/v2/accounts', { name: 'Bad line' });
    const secret = host.key(...SECRET, '--account', id);
    const line = await losingFirstAnswer(host.gate);
    try {
      const lossy = client(secret, { at: line, maxNetworkRetries: 3 });
      const made = await lossy.customers.create({ name: 'once' });
      assert.ok(line.connections() > 1);
      assert.deepEqual(await all(client(secret).customers.list()), [made.id]);
    } finally {
      line.close();
    }
  });

  test('every answer names its request', async () => {
    const { lastResponse } = await stripe.balance.retrieve();
    assert.match(lastResponse.requestId, /^req_/);
    assert.equal(lastResponse.headers['stripe-version'], stripe.getApiField('version'));
  });
});

/** The one place that looks at an error. Every test below is a row. */
async function refused(call, type, statusCode, code, says, more = {}) {
  let error;
  await assert.rejects(call, (err) => {
    error = err;
    return true;
  });
  assert.deepEqual(
    { type: error.type, statusCode: error.statusCode, code: error.code },
    { type, statusCode, code },
    error.message,
  );
  assert.equal(error.rawType, more.rawType ?? 'invalid_request_error');
  assert.equal(error.param, more.param);
  assert.ok(error.message.includes(says), error.message);
  assert.match(error.requestId, /^req_/);
  return error;
}

describe('a refusal raises what a program for Stripe expects', () => {
  const unauthenticated = (secret, code, says, more) => {
    const call = client(secret).customers.list();
    return refused(call, 'StripeAuthenticationError', 401, code, says, more);
  };
  const forbidden = (call, code, says) => refused(call, 'StripePermissionError', 403, code, says);
  const invalid = (call, status, code, says, param) =>
    refused(call, 'StripeInvalidRequestError', status, code, says, { param });

  test('no key', async () => {
    // The SDK itself refuses an empty one, so that this is a request without it.
    const response = await fetch(new URL('/v1/customers', host.gate));
    const { error } = await response.json();
    assert.deepEqual([response.status, error.type, error.code],
      [401, 'invalid_request_error', undefined]);
  });

  test('keys that are none', async () => {
    for (const secret of ['sk_test_nonsense', 'nonsense', `${host.key().slice(0, -1)}!`]) {
      const error = await unauthenticated(secret, undefined, 'Invalid API Key provided');
      assert.ok(!error.message.includes(secret), error.message);
    }
  });

  test('an unknown key', () =>
    unauthenticated(stranger.key(), undefined, 'Invalid API Key provided: rk_test_***'));

  test('a webhook secret', () =>
    unauthenticated(`whsec_${'a'.repeat(32)}`, undefined, 'webhook signing secret'));

  test('a key that ends while it is used', async () => {
    const secret = host.key('--permission', 'customer_read', '--expires-at', inSeconds(5));
    const { customers } = client(secret);
    const told = once(process, 'warning');
    await customers.list();
    assert.match((await told)[0].message, /This API key stops working in 1 h\./);
    const deadline = Date.now() + PATIENCE_MS;
    await assert.rejects(async () => {
      while (Date.now() < deadline) await customers.list();
    }, { type: 'StripeAuthenticationError' });
    await unauthenticated(secret, 'api_key_expired', 'Expired API Key', {
      rawType: 'authentication_error',
    });
  });

  test('a publishable key', () =>
    forbidden(client(host.key('--kind', 'publishable')).customers.list(),
      'secret_key_required', 'publishable API key'));

  test('a permission that is missing', async () => {
    const stripe = client(host.key('--permission', 'customer_read'));
    await stripe.customers.list();
    for (const [call, name] of [
      [() => stripe.customers.create({}), 'customer_write'],
      [() => stripe.refunds.list(), 'charge_read'],
      [() => stripe.prices.list(), 'plan_read'],
    ]) {
      const error = await forbidden(call(), 'more_permissions_required', `('${name}')`);
      assert.deepEqual(error.raw.missing_permissions, [name]);
    }
  });

  test('an address that is not allowed', async () => {
    const key = (ranges) => host.key('--permission', 'customer_read', '--allow-ip', ranges);
    await forbidden(client(key('10.0.0.0/8,192.0.2.1')).customers.list(),
      'ip_not_allowed', '(127.0.0.1)');
    await client(key('127.0.0.0/8')).customers.list();
  });

  test('an account out of reach', async () => {
    const stripe = client(host.key(...SECRET));
    for (const options of [{ stripeAccount: 'acct_nobody' }, { stripeContext: 'acct_nobody' }]) {
      await forbidden(stripe.customers.list({}, options), 'account_invalid', "'acct_nobody'");
    }
  });

  test('a connected account', async () => {
    const connected = await host.askAdmin('/v2/accounts',
      { name: 'Connected', platform: host.account });
    const options = { stripeAccount: connected.id };
    const bare = client(host.key('--permission', 'customer_read'));
    await forbidden(bare.customers.list({}, options),
      'more_permissions_required', 'does not have any Connect permissions');
    const stripe = client(host.key('--connect-permission', 'customer_write'));
    const made = await stripe.customers.create({ name: 'theirs' }, options);
    const own = client(host.key(...SECRET, '--account', connected.id));
    assert.equal((await own.customers.retrieve(made.id)).name, 'theirs');
    await forbidden(stripe.customers.list(), 'more_permissions_required', 'customer_');
  });

  test("the other mode's object", async () => {
    const inTest = client(host.key(...SECRET));
    const inLive = client(host.key(...SECRET, '--live'));
    for (const [makes, asks, hint] of [
      [inTest, inLive, 'exists in test mode, but a live mode key was used'],
      [inLive, inTest, 'exists in live mode, but a test mode key was used'],
    ]) {
      const { id } = await makes.customers.create({});
      await invalid(asks.customers.retrieve(id), 404, 'resource_missing', hint, 'id');
      const intent = { amount: 100, currency: 'usd', customer: id };
      await invalid(asks.paymentIntents.create(intent), 400, 'resource_missing', hint, 'customer');
    }
  });

  test('what is not there', () =>
    invalid(client(host.key(...SECRET)).customers.retrieve('cus_nobody'),
      404, 'resource_missing', "No such customer: 'cus_nobody'", 'id'));

  test('a path that is not there', () =>
    invalid(client(host.key(...SECRET)).rawRequest('GET', '/v1/nothing'),
      404, undefined, 'Unrecognized request URL (GET: /v1/nothing)'));

  test('a parameter of the wrong type', () =>
    invalid(client(host.key(...SECRET)).paymentIntents.create({ amount: 'much', currency: 'usd' }),
      400, 'parameter_invalid_integer', 'Invalid integer', 'amount'));

  test('a sandbox endpoint with a live key', () =>
    invalid(client(host.key(...SECRET, '--live')).testHelpers.testClocks.list(),
      400, 'livemode_mismatch', 'test mode only'));

  describe('a key of an organization', () => {
    let own;
    let secret;
    const members = [];
    before(async () => {
      const organization = await host.askAdmin('/v2/organizations', { name: 'Acme Group' });
      for (const name of ['North', 'South']) {
        const { id } = await host.askAdmin('/v2/accounts', { name });
        await host.askAdmin(`/v2/accounts/${id}`, { organization: organization.id });
        members.push(id);
      }
      own = ['--kind', 'organization', '--account', organization.id];
      secret = host.key(...own, '--permission', '*');
    });

    test('acts on the member that it names', async () => {
      assert.match(secret, /^sk_org_test_/);
      const { customers } = client(secret);
      const [north, south] = members.map((account) => ({ stripeContext: account }));
      const made = await customers.create({ name: 'theirs' }, north);
      assert.equal((await customers.retrieve(made.id, {}, north)).name, 'theirs');
      assert.deepEqual((await customers.list({}, south)).data, []);
      const byDefault = client(secret, { stripeContext: members[0] });
      assert.deepEqual(await all(byDefault.customers.list()), [made.id]);
    });

    test('must name one', () =>
      invalid(client(secret).customers.list(), 400, 'context_required',
        'Please include the Stripe-Context header', 'Stripe-Context'));

    test('must name a version', async () => {
      // The SDK always sends one, so that this is a request without it.
      const headers = { Authorization: `Bearer ${secret}`, 'Stripe-Context': members[0] };
      const response = await fetch(new URL('/v1/customers', host.gate), { headers });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code, error.param],
        [400, 'version_required', 'Stripe-Version']);
    });

    test('reaches members only', () =>
      forbidden(client(secret, { stripeContext: host.account }).customers.list(),
        'account_invalid', host.account));

    test('can be limited', async () => {
      const limited = host.key(...own, '--permission', 'customer_read');
      const stripe = client(limited, { stripeContext: members[0] });
      await stripe.customers.list();
      await forbidden(stripe.customers.create({}), 'more_permissions_required',
        "('customer_write')");
    });
  });
});

/** A way to the host on which the first answer gets lost. */
async function losingFirstAnswer({ hostname, port }) {
  let connections = 0;
  const server = net.createServer((near) => {
    connections += 1;
    const isFirst = connections === 1;
    const far = net.connect(Number(port), hostname);
    for (const end of [near, far]) end.on('error', () => {});
    near.pipe(far);
    near.on('close', () => far.destroy());
    if (isFirst) far.once('data', () => near.destroy());
    else far.pipe(near);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    hostname: '127.0.0.1',
    port: server.address().port,
    connections: () => connections,
    close: () => server.close(),
  };
}
