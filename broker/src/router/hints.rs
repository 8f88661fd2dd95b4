//! Hints to the processor and the kernel about memory. They change how long things take, never what they mean; where
//! there is nothing to hint to, they do nothing.

use std::mem;

/// Less memory than this is not worth a huge page.
const HUGE_BYTES_MIN: usize = 4 << 20;

/// Bytes that the processor fetches at once.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Has the processor fetch `value` into its caches, without waiting for it.
#[inline(always)]
pub(super) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in (0..mem::size_of::<T>()).step_by(LINE_BYTES) {
            // SAFETY: fetching reads nothing that the program sees, and the address is within a value that is there.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for huge pages for the room that `items` has, if that is large: where what is read next is anywhere in it, the
/// processor's own table of pages would be too small. To be called before the room is used.
pub(super) fn prefer_huge_pages<T>(items: &Vec<T>) {
    let bytes = items.capacity() * mem::size_of::<T>();
    #[cfg(target_os = "linux")]
    if bytes >= HUGE_BYTES_MIN {
        const PAGE: usize = 4096;
        let start = (items.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (items.as_ptr() as usize + bytes) & !(PAGE - 1);
        // SAFETY: these pages belong to the vector's allocation, and the advice changes nothing of what they contain. That
        // it is refused where the kernel has no huge pages is no error.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}
