//! proxy/proto
