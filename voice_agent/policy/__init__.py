"""Rules on what is heard, said and kept: private data, abuse, topics, escalation, disclosures."""
