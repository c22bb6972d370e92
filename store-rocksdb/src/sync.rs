//! What the threads of a store share its end through: the standard library's. `schedules` compiles the same code with
//! primitives that explore.

pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU64},
};
