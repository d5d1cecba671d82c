//! The four systems that this one comes from, row by row: what each promised, on real processes. A test is named after
//! its row. What S4 promised has tests of its own; so have many rows of S1 to S3, named in `requirements.md`.

#[path = "../support/cluster.rs"]
mod cluster;
mod s1_dictionary;
mod s2_calls;
mod s2_membership;
mod s3_memory;
