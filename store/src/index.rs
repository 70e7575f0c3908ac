//! The index: sled over the records, for look-ups by prefix and by reverse reference. Never the truth.
