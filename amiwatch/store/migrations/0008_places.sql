-- An account has as much trust in the store as in memory (``Trust.MAX_PLACES``): its newest 256 places. Who owns an IPv6
-- /48 could log in from another /64 each time, and fill the disk for a week.

CREATE INDEX trust_account ON trust (account, last_at);

CREATE TRIGGER trust_places AFTER INSERT ON trust BEGIN
    DELETE FROM trust WHERE account = NEW.account AND last_at < (
        SELECT last_at FROM trust WHERE account = NEW.account ORDER BY last_at DESC LIMIT 1 OFFSET 255
    );
END;
