//! How much memory the allocator keeps for itself.
//!
//! glibc gives threads that meet at one heap another one each, up to eight for each processor, and what is freed in one serves
//! no other: a node that had taken in a million rows held a third more than it used. Two do as well, at the same speed.

/// Heaps that threads share.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: i32 = 2;

/// Has all threads share a few heaps. To be called before a node starts its threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt takes two numbers, and is safe to call at any time")]
pub fn share() {
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) } == 0 {
        tracing::warn!("the allocator does not take the number of its heaps: nodes may hold more memory than they use");
    }
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn share() {}
