"""Pages of records that cost the same however many are stored."""
