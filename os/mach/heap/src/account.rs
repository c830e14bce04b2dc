//! Who pays: zone accounts, reservations, and the injected failure.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::{OutOfMemory, ZoneId};

/// Zone ids run from 0 to 9999 (`kif::ZoneId`).
pub const ZONES: usize = 10_000;

/// What a zone has and may have. All zero means: nothing, and no cap.
#[derive(Debug)]
struct ZoneAccount {
    bytes: AtomicU64,
    /// `u64::MAX - cap`, so that a zeroed table has no caps and takes no room in the image.
    cap_complement: AtomicU64,
}

/// A thread's side of the books: which zone it allocates for and what it has set aside. Lives in the thread.
#[derive(Debug, Default)]
pub struct Account {
    zone: AtomicU64,
    reserved: AtomicU64,
    /// The zone that the reservation is charged to.
    reserved_for: AtomicU64,
}

impl Account {
    /// An account for a thread of `zone`.
    #[must_use]
    pub const fn new(zone: ZoneId) -> Self {
        Self { zone: AtomicU64::new(zone.0 as u64), reserved: AtomicU64::new(0), reserved_for: AtomicU64::new(zone.0 as u64) }
    }
    /// The zone charged.
    pub fn zone(&self) -> ZoneId {
        // The value came from a ZoneId.
        #[allow(clippy::cast_possible_truncation, reason = "stored from a u32")]
        ZoneId(self.zone.load(Relaxed) as u32)
    }
    /// Charges another zone from now on (the thread entered it). An outstanding reservation stays with the old one until it is
    /// given back, and allocations for the new one do not draw on it.
    pub fn set_zone(&self, zone: ZoneId) {
        self.zone.store(u64::from(zone.0), Relaxed);
    }
    /// Bytes set aside and not yet used.
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Relaxed)
    }
}

/// How the heap finds the account of the running thread; installed by the kernel once threads exist.
pub trait CurrentAccount: Sync {
    /// Calls `body` with the running thread's account; not at all in contexts that have none (interrupts, before threads).
    fn with(&self, body: &mut dyn FnMut(&Account));
}

/// All accounts.
#[derive(Debug)]
pub(crate) struct Accounts {
    zones: [ZoneAccount; ZONES],
    /// Sum of all reservations: physical memory that fallible allocations must leave.
    reserved: AtomicU64,
    /// Fallible calls until the injected failure; 0 = none armed.
    fail_in: AtomicU64,
    /// Injected failures so far.
    failed: AtomicU64,
}

impl Accounts {
    pub(crate) const fn new() -> Self {
        Self {
            zones: [const { ZoneAccount { bytes: AtomicU64::new(0), cap_complement: AtomicU64::new(0) } }; ZONES],
            reserved: AtomicU64::new(0),
            fail_in: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn zone(&self, zone: ZoneId) -> &ZoneAccount {
        let index = usize::try_from(zone.0).expect("a u32 fits");
        assert!(index < ZONES, "zone id {index} is not below {ZONES}");
        &self.zones[index]
    }

    /// Makes the `n`-th fallible call from now fail, once; 0 disarms.
    pub(crate) fn arm_failure(&self, n: u64) {
        self.fail_in.store(n, Relaxed);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Counts a fallible call; an error if it is the one that shall fail.
    pub(crate) fn fallible_call(&self) -> Result<(), OutOfMemory> {
        if self.fail_in.load(Relaxed) == 0 {
            return Ok(());
        }
        match self.fail_in.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(1) => {
                self.failed.fetch_add(1, Relaxed);
                Err(OutOfMemory)
            }
            _ => Ok(()),
        }
    }

    /// Charges within the cap.
    pub(crate) fn charge(&self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory> {
        let account = self.zone(zone);
        let cap = u64::MAX - account.cap_complement.load(Relaxed);
        let now = account.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if now > cap {
            account.bytes.fetch_sub(bytes, Relaxed);
            return Err(OutOfMemory);
        }
        Ok(())
    }

    /// Charges without looking at the cap: for allocations that cannot be refused.
    pub(crate) fn charge_anyway(&self, zone: ZoneId, bytes: u64) {
        self.zone(zone).bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn uncharge(&self, zone: ZoneId, bytes: u64) {
        let before = self.zone(zone).bytes.fetch_sub(bytes, Relaxed);
        assert!(before >= bytes, "zone {} gives back {bytes} of {before} bytes", zone.0);
    }

    pub(crate) fn charged(&self, zone: ZoneId) -> u64 {
        self.zone(zone).bytes.load(Relaxed)
    }

    pub(crate) fn set_cap(&self, zone: ZoneId, cap: u64) {
        self.zone(zone).cap_complement.store(u64::MAX - cap, Relaxed);
    }

    pub(crate) fn cap(&self, zone: ZoneId) -> u64 {
        u64::MAX - self.zone(zone).cap_complement.load(Relaxed)
    }

    /// Reserved bytes of all threads.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Relaxed)
    }

    /// Notes a reservation that was charged already.
    pub(crate) fn add_reservation(&self, account: &Account, zone: ZoneId, bytes: u64) {
        account.reserved_for.store(u64::from(zone.0), Relaxed);
        account.reserved.fetch_add(bytes, Relaxed);
        self.reserved.fetch_add(bytes, Relaxed);
    }

    /// Takes up to `bytes` out of the reservation for an allocation of the thread's zone; returns how much there was: nothing, if the
    /// thread changed zones since it reserved.
    pub(crate) fn draw(&self, account: &Account, bytes: u64) -> u64 {
        let same = account.zone.load(Relaxed) == account.reserved_for.load(Relaxed);
        if same { self.take_reservation(account, bytes) } else { 0 }
    }

    /// Takes up to `bytes` out of a reservation; returns how much there was.
    pub(crate) fn take_reservation(&self, account: &Account, bytes: u64) -> u64 {
        let have = account.reserved.load(Relaxed);
        if have == 0 {
            return 0;
        }
        let taken = have.min(bytes);
        // Only the thread itself changes its account, so this is not a race.
        account.reserved.store(have - taken, Relaxed);
        self.reserved.fetch_sub(taken, Relaxed);
        taken
    }
}
