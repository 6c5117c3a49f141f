//! One current-thread runtime per core: accepts for itself, owns its connections and pools, shares snapshots only.
