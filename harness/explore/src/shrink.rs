//! The smallest plan that still fails.
//!
//! Of the cuts that fail the earliest is taken. Then the set of writes that it loses is halved and thinned (delta debugging: Zeller, Hildebrandt 2002) until no
//! part of it can be left out. A cut that fails without losing everything (a subset, a tear) stays as it is: its seed is its description.

use crate::campaign::{Campaign, Outcome};
use crate::guest::{ExploreError, Worker};
use crate::plan::{Lost, Plan};

/// Trials that shrinking may cost.
const TRIALS_MAX: u32 = 80;

/// Shrinks the first of plans that fail in one way, `kind`. `None`: there is none.
pub fn smallest(campaign: &Campaign, kind: &str, failing: &[&Outcome]) -> Result<Option<Outcome>, ExploreError> {
    let Some(first) = failing.iter().copied().min_by_key(|outcome| rank(&outcome.plan)) else { return Ok(None) };
    let Plan::Cut { write, lost } = &first.plan else { return Ok(Some(first.clone())) };
    let Some(reference) = &campaign.reference else { return Ok(Some(first.clone())) };
    if matches!(lost, Lost::Nothing | Lost::These(_)) {
        return Ok(Some(first.clone()));
    }
    let mut worker = campaign.guest.worker(campaign.reference.as_ref())?;
    let mut trials = 0;
    let mut best = first.clone();
    let mut set = reference.cuts.unflushed_writes(*write);
    let mut fails = |candidate: &[u64], trials: &mut u32| fails(campaign, &mut worker, *write, candidate, kind, trials);
    if let Some(outcome) = fails(&set, &mut trials)? {
        best = outcome;
    } else {
        // What fails here is losing a part and keeping the rest.
        return Ok(Some(best));
    }
    let mut parts = 2;
    while set.len() > 1 && trials < TRIALS_MAX {
        let size = set.len().div_ceil(parts);
        let mut smaller = None;
        for at in (0..set.len()).step_by(size) {
            let part: Vec<u64> = set[at..(at + size).min(set.len())].to_vec();
            let rest: Vec<u64> = set.iter().copied().filter(|write| !part.contains(write)).collect();
            for candidate in [part, rest] {
                if smaller.is_none() && !candidate.is_empty() && candidate.len() < set.len() && trials < TRIALS_MAX {
                    smaller = fails(&candidate, &mut trials)?.map(|outcome| (candidate, outcome));
                }
            }
            if smaller.is_some() {
                break;
            }
        }
        match smaller {
            Some((candidate, outcome)) => {
                set = candidate;
                best = outcome;
                parts = 2;
            }
            None if parts >= set.len() => break,
            None => parts = (2 * parts).min(set.len()),
        }
    }
    Ok(Some(best))
}

/// Earlier and simpler plans first.
fn rank(plan: &Plan) -> (u64, u8) {
    match plan {
        Plan::Cut { write, lost } => (
            *write,
            match lost {
                Lost::Nothing => 0,
                Lost::These(_) => 1,
                Lost::Everything => 2,
                Lost::Subset(_) => 3,
                Lost::Torn(_) => 4,
            },
        ),
        Plan::Fault { operation, .. } => (*operation, 5),
        Plan::Turns { seed, .. } => (*seed, 6),
    }
}

/// Tries to lose these writes: whether that fails in the way that is looked for.
fn fails(campaign: &Campaign, worker: &mut Worker, write: u64, lost: &[u64], kind: &str, trials: &mut u32) -> Result<Option<Outcome>, ExploreError> {
    *trials += 1;
    let plan = Plan::Cut { write, lost: Lost::These(lost.to_vec()) };
    let trial = campaign.guest.attempt(worker, campaign.reference.as_ref(), &plan)?;
    Ok(Some(Outcome { plan, wrong: trial.wrong }).filter(|outcome| outcome.kinds().any(|found| found == kind)))
}
