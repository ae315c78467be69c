//! What the daemon keeps of the node's memory: what it needs, not what it once needed.

use std::time::Duration;

/// Two workers serve requests; the threads that do blocking calls allocate little, and need no arenas of their own.
const ARENAS: u16 = 2;

/// How often free memory goes back to the kernel. Seldom enough that a burst of requests finds what it has freed.
const EVERY: Duration = Duration::from_secs(10);

/// Call it before there are threads.
pub(crate) fn bound() {
    sys::bound_allocator(ARENAS);
}

/// Never ends.
pub(crate) async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        sys::release_free_memory();
    }
}
