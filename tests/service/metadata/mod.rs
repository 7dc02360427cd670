//! A metadata database that is somebody else's: what its network, its server and its
//! settings do, and what callers notice of it.

mod proxy;
