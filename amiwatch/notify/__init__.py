"""Who is told: sinks for alerts and bans."""
