-- What decides for a share of the keys or accounts, and how far back the host may
-- fall by itself.

ALTER TABLE activations ADD COLUMN min_revision INTEGER NOT NULL DEFAULT 0
    CHECK (min_revision >= 0);
-- A share makes a canary; without a digest it is the standard policy.
ALTER TABLE activations ADD COLUMN canary BLOB REFERENCES policies (digest);
-- In hundredths of a percent.
ALTER TABLE activations ADD COLUMN canary_share INTEGER
    CHECK (canary_share BETWEEN 1 AND 10000);
ALTER TABLE activations ADD COLUMN canary_by TEXT
    CHECK (ifnull(canary_by IN ('key', 'account'), 0) = (canary_share IS NOT NULL));
