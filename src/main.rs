//! super-node
fn main() {}
