//! The disk keeps what was acknowledged, cuts what a crash tore, and reports what has changed.

mod storage {
    mod damage;
    mod directory;
    mod directory_damage;
    mod kill;
    mod log;
    mod model;
    mod random;
    mod scrub;
    mod space;
    mod state;
}
