-- The daemon also reads at start on what evidence each ban rests: those on unproven evidence share a part of the set.

DROP INDEX bans_open_until;
CREATE INDEX bans_open_until ON bans (until, sort_key, at, level, rule, is_enforced, is_proven, ended_at)
    WHERE ended_at IS NULL;
