//! The allocator over an ordinary piece of memory.

use core::alloc::{GlobalAlloc, Layout};
use std::alloc;

use kif::{Frames, ZoneId};

use crate::*;

const A: ZoneId = ZoneId(1);
const B: ZoneId = ZoneId(2);

/// A heap with `mib` MiB, its first MiB being a hole.
fn heap(mib: usize) -> &'static Heap {
    let heap: &'static Heap = Box::leak(Box::new(Heap::new()));
    let bytes = mib << 20;
    let layout = Layout::from_size_align(bytes, 16 << 20).unwrap();
    // SAFETY: a layout that is not empty.
    let base = unsafe { alloc::alloc_zeroed(layout) };
    assert!(!base.is_null());
    let ranges = [(1 << 20, bytes as u64 / 2), (bytes as u64 / 2, bytes as u64)];
    // SAFETY: memory of this test alone, never freed, aligned to 16 MiB.
    assert!(unsafe { heap.init(base, ranges.into_iter()) });
    heap
}

fn free(heap: &Heap) -> u64 {
    heap.free_total().0
}

/// Pseudo-random numbers (xorshift64), so that a failure repeats.
struct Numbers(u64);
impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

struct Thread(Account);
impl CurrentAccount for Thread {
    fn with(&self, body: &mut dyn FnMut(&Account)) {
        body(&self.0);
    }
}

/// Makes allocations come from a thread of zone A.
fn thread(heap: &'static Heap) -> &'static Thread {
    let thread: &'static Thread = Box::leak(Box::new(Thread(Account::new(A))));
    heap.install_current(Box::leak(Box::new(thread as &dyn CurrentAccount)));
    thread
}

#[test]
fn frames_are_charged_counted_and_returned() {
    let heap = heap(8);
    let before = free(heap);
    let frame = heap.allocate_frame(A, true).unwrap();
    assert_eq!((heap.charged_bytes(A), heap.references(frame), heap.zone(frame)), (4096, 1, A));
    heap.retain(frame);
    heap.release(frame);
    assert_eq!(free(heap), before - 1);
    heap.release(frame);
    assert_eq!((heap.charged_bytes(A), free(heap)), (0, before));
}

#[test]
fn contents_never_pass_from_one_zone_to_another() {
    let heap = heap(8);
    let frame = heap.allocate_frame(A, false).unwrap();
    heap.write(frame, 0, &[0x5a; 4096]);
    heap.release(frame);
    let again = heap.allocate_frame(B, false).unwrap();
    assert_eq!(again, frame, "the cache gives the last frame back first: otherwise this test shows nothing");
    let mut bytes = [1; 4096];
    heap.read(again, 0, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn a_cap_holds_and_other_zones_go_on() {
    let heap = heap(8);
    heap.set_cap_bytes(A, 3 * 4096);
    let frames: Vec<_> = (0..3).map(|_| heap.allocate_frame(A, true).unwrap()).collect();
    assert!(heap.allocate_frame(A, true).is_err());
    assert!(heap.allocate_frame(B, true).is_ok());
    heap.release(frames[0]);
    assert!(heap.allocate_frame(A, true).is_ok());
}

#[test]
fn fallible_calls_leave_the_emergency_reserve_and_all_reservations() {
    let heap = heap(16);
    let thread = thread(heap);
    heap.reserve(A, 1 << 20).unwrap();
    let mut frames = Vec::new();
    while let Ok(frame) = heap.allocate_frame(B, false) {
        frames.push(frame);
    }
    // 1 MiB reserved and at least 1 MiB for emergencies are still there, for the allocations that cannot fail.
    assert!(free(heap) >= 512, "{} frames left", free(heap));
    let global = KernelHeap(heap);
    let layout = Layout::from_size_align(64 << 10, 8).unwrap();
    for _ in 0..16 {
        // SAFETY: a layout that is not empty.
        assert!(!unsafe { global.alloc(layout) }.is_null());
    }
    assert_eq!((thread.0.reserved(), heap.charged_bytes(A)), (0, 1 << 20));
    heap.unreserve(A, 1 << 20);
    assert_eq!(heap.charged_bytes(A), 1 << 20, "what was used of a reservation stays charged");
}

#[test]
fn what_is_left_of_a_reservation_comes_back() {
    let heap = heap(8);
    thread(heap);
    let global = KernelHeap(heap);
    heap.reserve(A, 10_000).unwrap();
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: a layout that is not empty.
    let object = unsafe { global.alloc(layout) };
    assert_eq!(heap.charged_bytes(A), 10_000);
    heap.unreserve(A, 10_000);
    assert_eq!(heap.charged_bytes(A), 128);
    // SAFETY: made above with this layout.
    unsafe { global.dealloc(object, layout) };
    assert_eq!(heap.charged_bytes(A), 0);
}

#[test]
fn the_nth_fallible_call_fails_once() {
    let heap = heap(8);
    heap.fail_nth(3);
    assert!(heap.allocate_frame(A, false).is_ok());
    assert!(heap.reserve(A, 10).is_ok());
    assert!(heap.allocate_frame(A, false).is_err());
    assert!(heap.allocate_frame(A, false).is_ok());
    assert_eq!(heap.injected_failures(), 1);
}

#[test]
fn alignment_and_size_are_what_was_asked_for() {
    let heap = heap(16);
    let global = KernelHeap(heap);
    for align in [1, 8, 16, 32, 64, 256, 1024, 2048, 4096, 16384] {
        for size in [1, 7, 16, 17, 48, 100, 1000, 2048, 2049, 5000, 20_000] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: a layout that is not empty.
            let object = unsafe { global.alloc(layout) };
            assert!(!object.is_null() && (object as usize).is_multiple_of(align), "{layout:?} gives {object:p}");
            // SAFETY: `size` bytes of ours.
            unsafe { object.write_bytes(0xa5, size) };
            // SAFETY: made above with this layout.
            unsafe { global.dealloc(object, layout) };
        }
    }
    assert_eq!(heap.charged_bytes(ZoneId::GLOBAL), 0);
}

#[test]
fn random_use_never_overlaps_and_everything_comes_back() {
    let heap = heap(32);
    let global = KernelHeap(heap);
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
    let check = |(object, layout, mark): &(*mut u8, Layout, u8)| {
        // SAFETY: an object that is alive, all of it written.
        let bytes = unsafe { core::slice::from_raw_parts(*object, layout.size()) };
        assert!(bytes.iter().all(|byte| byte == mark), "an object of {} bytes was overwritten", layout.size());
    };
    for step in 0..20_000 {
        let what = numbers.next(10);
        if what < 5 || live.is_empty() {
            let size = match numbers.next(20) {
                0 => 1 + numbers.next(100_000),
                1..5 => 1 + numbers.next(3000),
                _ => 1 + numbers.next(300),
            };
            let layout = Layout::from_size_align(size, 1 << numbers.next(7)).unwrap();
            // SAFETY: a layout that is not empty.
            let object = unsafe { global.alloc(layout) };
            if object.is_null() {
                continue;
            }
            let mark = (step % 251) as u8;
            // SAFETY: ours.
            unsafe { object.write_bytes(mark, size) };
            live.push((object, layout, mark));
        } else if what < 8 {
            let entry = live.swap_remove(numbers.next(live.len()));
            check(&entry);
            // SAFETY: made by `alloc` or `realloc` with this layout, freed once.
            unsafe { global.dealloc(entry.0, entry.1) };
        } else {
            let (object, layout, mark) = live.swap_remove(numbers.next(live.len()));
            let size = 1 + numbers.next(5000);
            // SAFETY: as for `dealloc`.
            let new = unsafe { global.realloc(object, layout, size) };
            assert!(!new.is_null());
            // SAFETY: the shorter of both lengths was copied.
            let kept = unsafe { core::slice::from_raw_parts(new, size.min(layout.size())) };
            assert!(kept.iter().all(|byte| *byte == mark));
            // SAFETY: ours.
            unsafe { new.write_bytes(mark, size) };
            live.push((new, Layout::from_size_align(size, layout.align()).unwrap(), mark));
        }
    }
    for entry in live {
        check(&entry);
        // SAFETY: as above.
        unsafe { global.dealloc(entry.0, entry.1) };
    }
    assert_eq!(heap.charged_bytes(ZoneId::GLOBAL), 0);
    assert!(heap.class_use().all(|class| class.objects == 0 && class.slabs <= 1), "{:?}", heap.class_use().collect::<Vec<_>>());
}

#[test]
fn blocks_join_again() {
    let heap = heap(32);
    let global = KernelHeap(heap);
    let large = Layout::from_size_align(8 << 20, 4096).unwrap();
    let frames: Vec<_> = core::iter::from_fn(|| heap.allocate_frame(A, false).ok()).collect();
    // SAFETY: a layout that is not empty.
    assert!(unsafe { global.alloc(large) }.is_null());
    for frame in frames {
        heap.release(frame);
    }
    // SAFETY: the same.
    assert!(!unsafe { global.alloc(large) }.is_null());
}

#[test]
#[should_panic(expected = "freed twice")]
fn a_double_free_asserts() {
    let global = KernelHeap(heap(8));
    let layout = Layout::from_size_align(40, 8).unwrap();
    // SAFETY: a layout that is not empty.
    let (one, _two) = unsafe { (global.alloc(layout), global.alloc(layout)) };
    // SAFETY: made above.
    unsafe { global.dealloc(one, layout) };
    // SAFETY: deliberately not: the assertion is what is tested; it fires before any memory is touched wrongly.
    unsafe { global.dealloc(one, layout) };
}

#[test]
#[should_panic(expected = "is not allocated")]
fn a_frame_released_once_too_often_asserts() {
    let heap = heap(8);
    let frame = heap.allocate_frame(A, false).unwrap();
    heap.release(frame);
    heap.release(frame);
}

#[test]
fn fragments_do_not_stop_single_frames() {
    let heap = heap(16);
    let mut numbers = Numbers(77);
    let mut frames: Vec<_> = core::iter::from_fn(|| heap.allocate_frame(A, false).ok()).collect();
    let all = frames.len();
    for _ in 0..all / 2 {
        let at = numbers.next(frames.len());
        heap.release(frames.swap_remove(at));
    }
    let more = core::iter::from_fn(|| heap.allocate_frame(B, false).ok()).count();
    assert_eq!(more + frames.len(), all);
}
