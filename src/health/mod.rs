//! Ping schedule, failure detector, interval counters.
