//! Leftist heaps threaded through a table of nodes (Crane 1972): merge, insert, remove in O(log n), no allocation.
//!
//! A heap is the index of its root; a node is in at most one heap. Smallest `(key, arrival)` first. Every node's left subtree has
//! a rank (length of the right spine) at least its right subtree's, so right spines have at most log2(n + 1) nodes.

/// No node: the empty heap.
pub const NIL: u32 = u32::MAX;

/// A table entry's place in its heap.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub key: u64,
    /// Breaks ties first come, first served, and makes every order total.
    pub arrival: u64,
    parent: u32,
    left: u32,
    right: u32,
    rank: u32,
}

impl Node {
    pub const NEW: Self = Self { key: 0, arrival: 0, parent: NIL, left: NIL, right: NIL, rank: 1 };
}

fn before(nodes: &[Node], a: u32, b: u32) -> bool {
    let (a, b) = (&nodes[a as usize], &nodes[b as usize]);
    (a.key, a.arrival) < (b.key, b.arrival)
}

fn rank(nodes: &[Node], at: u32) -> u32 {
    if at == NIL { 0 } else { nodes[at as usize].rank }
}

/// Adds a node that is in no heap.
#[inline]
pub fn insert(nodes: &mut [Node], root: &mut u32, at: u32) {
    let node = &mut nodes[at as usize];
    (node.parent, node.left, node.right, node.rank) = (NIL, NIL, NIL, 1);
    *root = if *root == NIL { at } else { merge(nodes, *root, at) };
}

/// Whether a root is its heap's only node: then its key may be changed in place.
pub fn is_alone(nodes: &[Node], root: u32) -> bool {
    nodes[root as usize].left == NIL
}

/// Takes a node out of the heap it is in.
#[inline]
pub fn remove(nodes: &mut [Node], root: &mut u32, at: u32) {
    // Alone: the usual case.
    if *root == at && is_alone(nodes, at) {
        *root = NIL;
    } else {
        remove_from_many(nodes, root, at);
    }
}

fn remove_from_many(nodes: &mut [Node], root: &mut u32, at: u32) {
    let Node { parent, left, right, .. } = nodes[at as usize];
    // A left child alone needs no merging (leftist: there is no right one without a left one).
    let rest = if right == NIL { left } else { merge(nodes, left, right) };
    if rest != NIL {
        nodes[rest as usize].parent = parent;
    }
    if parent == NIL {
        assert!(*root == at, "node {at} removed from a heap it is not in");
        *root = rest;
        return;
    }
    let above = &mut nodes[parent as usize];
    if above.left == at {
        above.left = rest;
    } else {
        above.right = rest;
    }
    let mut up = parent;
    while up != NIL && settle(nodes, up) {
        up = nodes[up as usize].parent;
    }
}

/// Joins two heaps. Their roots' parents are ignored; the result's is `NIL`.
fn merge(nodes: &mut [Node], a: u32, b: u32) -> u32 {
    if a == NIL || b == NIL {
        let root = if a == NIL { b } else { a };
        if root != NIL {
            nodes[root as usize].parent = NIL;
        }
        return root;
    }
    let (root, mut other) = if before(nodes, b, a) { (b, a) } else { (a, b) };
    nodes[root as usize].parent = NIL;
    // Down the right spine, weaving the other spine in.
    let mut at = root;
    loop {
        let right = nodes[at as usize].right;
        if right != NIL && before(nodes, right, other) {
            at = right;
            continue;
        }
        nodes[at as usize].right = other;
        nodes[other as usize].parent = at;
        if right == NIL {
            break;
        }
        at = other;
        other = right;
    }
    // And up again, restoring ranks.
    while at != NIL {
        settle(nodes, at);
        at = nodes[at as usize].parent;
    }
    root
}

/// Puts the higher-ranked child left and recomputes the rank; false if it was right before.
fn settle(nodes: &mut [Node], at: u32) -> bool {
    let Node { left, right, rank: old, .. } = nodes[at as usize];
    if rank(nodes, left) < rank(nodes, right) {
        (nodes[at as usize].left, nodes[at as usize].right) = (right, left);
    }
    let new = rank(nodes, nodes[at as usize].right) + 1;
    nodes[at as usize].rank = new;
    new != old
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec;

    fn check(nodes: &[Node], at: u32, parent: u32) -> usize {
        if at == NIL {
            return 0;
        }
        let node = nodes[at as usize];
        assert_eq!(node.parent, parent);
        assert!(parent == NIL || !before(nodes, at, parent), "order");
        assert!(rank(nodes, node.left) >= rank(nodes, node.right), "leftist");
        assert_eq!(node.rank, rank(nodes, node.right) + 1);
        1 + check(nodes, node.left, at) + check(nodes, node.right, at)
    }

    #[test]
    fn random_inserts_pops_and_removals_match_a_sorted_set() {
        let mut seed = 12345_u64;
        let mut random = move |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let mut nodes = vec![Node::NEW; 300];
        let mut root = NIL;
        let mut model: BTreeSet<(u64, u64, u32)> = BTreeSet::new();
        let mut inside = vec![false; 300];
        for step in 0..20_000_u64 {
            let at = u32::try_from(random(300)).expect("small");
            match random(3) {
                0 if !inside[at as usize] => {
                    (nodes[at as usize].key, nodes[at as usize].arrival) = (random(50), step);
                    insert(&mut nodes, &mut root, at);
                    model.insert((nodes[at as usize].key, step, at));
                    inside[at as usize] = true;
                }
                1 if inside[at as usize] => {
                    remove(&mut nodes, &mut root, at);
                    model.remove(&(nodes[at as usize].key, nodes[at as usize].arrival, at));
                    inside[at as usize] = false;
                }
                _ => {
                    let popped = (root != NIL).then_some(root);
                    if let Some(first) = popped {
                        remove(&mut nodes, &mut root, first);
                    }
                    assert_eq!(popped, model.pop_first().map(|(_, _, at)| at));
                    if let Some(at) = popped {
                        inside[at as usize] = false;
                    }
                }
            }
            if step % 64 == 0 {
                assert_eq!(check(&nodes, root, NIL), model.len());
            }
        }
    }
}
