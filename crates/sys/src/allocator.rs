/// From this size on an allocation is a mapping of its own: more than a stream's buffers have.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 512 * 1024;

/// As much may be free at the end of an arena before it is given back at once. Streams that carry much free and allocate some hundred KiB again and
/// again: pages that went and came with them cost more than their copying.
#[cfg(target_env = "gnu")]
const SPARE: libc::c_int = 8 * 1024 * 1024;

/// Has the C library's allocator keep at most `arenas` arenas (of which each thread otherwise gets one of its own, with what was freed in it), and
/// map what is large by itself, so that it goes back to the kernel when it is freed. Call it before there are threads. Other C libraries than
/// glibc have nothing to set.
pub fn bound_allocator(arenas: u16) {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, libc::c_int::from(arenas)),
        // Given, they no longer grow with what is freed.
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, SPARE),
    ] {
        // SAFETY: `mallopt(3)` takes any number for these three.
        let _in_range = unsafe { libc::mallopt(parameter, value) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _nothing_to_set = arenas;
}

/// Gives the pages back to the kernel that the C library's allocator has free. Other threads that allocate wait meanwhile: a tenth of a millisecond
/// for each megabyte.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim(3)` may be called at any time, by any thread.
        let _whether_any = unsafe { libc::malloc_trim(0) };
    }
}
