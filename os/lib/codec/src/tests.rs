//! Round trips, published vectors and hostile input.

extern crate std;

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

#[test]
fn sha256_matches_the_published_vector() {
    // FIPS 180-2, appendix B.1: "abc".
    assert_eq!(sha256(b"abc"), [0xba78_16bf_8f01_cfea, 0x4141_40de_5dae_2223, 0xb003_61a3_9617_7a9c, 0xb410_ff61_f200_15ad]);
}

#[test]
fn sha512_matches_the_published_vector() {
    // NIST's examples of SHA-512/256: "abc" begins 53048e2681941ef9.
    assert_eq!(sha512(b"abc")[0], u64::from_le_bytes([0x53, 0x04, 0x8e, 0x26, 0x81, 0x94, 0x1e, 0xf9]));
}

#[test]
fn compressors_do_with_the_stack_of_a_kernel_thread() {
    let work = || {
        let data: Vec<u8> = (0..1_u32 << 20).map(|at| (at >> 7).to_le_bytes()[0] ^ (at.wrapping_mul(at) >> 20).to_le_bytes()[0] & 3).collect();
        let mut out = vec![0; data.len()];
        let packed = gzip_encode(&data, 9, data.len()).expect("gzip");
        gzip_decode(&packed, &mut out).expect("gzip");
        assert_eq!(out, data);
        out.fill(0);
        let packed = zstd_encode(&data, data.len()).expect("zstd");
        zstd_decode(&packed, &mut out).expect("zstd");
        assert_eq!(out, data);
    };
    std::thread::Builder::new().stack_size(200 << 10).spawn(work).expect("a thread").join().expect("the stack was enough");
}

#[test]
fn fletcher_sums_follow_their_definition() {
    let data: Vec<u8> = [1_u32, 2, 3, 4].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(fletcher4(&data), [10, 20, 35, 56]);
    assert_eq!(fletcher4_continue(fletcher4(&data[..8]), &data[8..]), fletcher4(&data));
    let data: Vec<u8> = [1_u64, 2, 3, 4].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(fletcher2(&data), [4, 6, 5, 8]);
}

proptest! {
    #[test]
    fn lz4_of_blocks_that_end_in_zeros(head in proptest::collection::vec(0..4_u8, 0..700), zeros in 0..70_000_usize) {
        let mut data = head;
        data.resize(data.len() + zeros + 1, 0);
        let packed = lz4_encode(&data, usize::MAX).expect("no limit");
        let mut out = vec![1; data.len()];
        prop_assert_eq!(lz4_decode(&packed, &mut out), Ok(()));
        prop_assert_eq!(&out, &data);
        // Another decoder, which is strict about the end of a block.
        prop_assert_eq!(lz4_flex::block::decompress(&packed[4..], data.len()).expect("a good block"), data);
    }

    #[test]
    fn fletcher4_in_lanes_is_fletcher4_word_by_word(from: [u64; 4], data in proptest::collection::vec(any::<u8>(), 0..9000)) {
        // Short pieces are summed word by word.
        let slow = data.chunks(16).fold(from, fletcher4_continue);
        prop_assert_eq!(fletcher4_continue(from, &data), slow);
    }
}

#[test]
fn crc64_matches_the_published_check_value() {
    // CRC-64/XZ is this polynomial with inverted start and end; its check value over "123456789" is 0x995dc9bbdf1939fa.
    assert_eq!(!zap_hash(!0, b"123456789"), 0x995d_c9bb_df19_39fa);
}

#[test]
fn canary_a_wrong_size_is_refused() {
    let packed = lz4_encode(&[7; 512], 512).expect("a constant compresses");
    assert_eq!(lz4_decode(&packed, &mut [0; 511]), Err(Damaged));
    assert_eq!(lz4_decode(&packed, &mut [0; 513]), Err(Damaged));
}

fn compressible() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((any::<u8>(), 1_usize..90), 0..60)
        .prop_map(|runs| runs.into_iter().flat_map(|(byte, count)| vec![byte & 0x83; count]).collect())
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(data in compressible()) {
        let mut out = vec![0xAA; data.len()];
        lz4_decode(&lz4_encode(&data, usize::MAX).expect("no limit"), &mut out).expect("lz4");
        prop_assert_eq!(&out, &data);
        out.fill(0xAA);
        lzjb_decode(&lzjb_encode(&data, 1 << 20).expect("no limit"), &mut out).expect("lzjb");
        prop_assert_eq!(&out, &data);
        out.fill(0xAA);
        zle_decode(&zle_encode(&data, usize::MAX).expect("no limit"), &mut out).expect("zle");
        prop_assert_eq!(&out, &data);
        out.fill(0xAA);
        gzip_decode(&gzip_encode(&data, 1 + data.len().to_le_bytes()[0] % 9, 1 << 20).expect("no limit"), &mut out).expect("gzip");
        prop_assert_eq!(&out, &data);
        out.fill(0xAA);
        zstd_decode(&zstd_encode(&data, usize::MAX).expect("no limit"), &mut out).expect("zstd");
        prop_assert_eq!(&out, &data);
        prop_assert_eq!(gzip_encode(&data, 6, 3), None);
    }

    /// Our decoder against the library's, on good blocks and on spoiled ones.
    #[test]
    fn lz4_is_the_librarys(data in compressible(), spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), longer in 0_usize..3) {
        let mut packed = lz4_encode(&data, usize::MAX).expect("no limit");
        for (at, byte) in spoil {
            let index = 4 + at.index(packed.len() - 4);
            packed[index] = byte;
        }
        let (mut ours, mut theirs) = (vec![0; data.len() + longer], vec![0; data.len() + longer]);
        let verdict = lz4_flex::block::decompress_into(&packed[4..], &mut theirs).is_ok_and(|size| size == theirs.len());
        prop_assert_eq!(lz4_decode(&packed, &mut ours).is_ok(), verdict);
        if verdict {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..600), size in 0_usize..2048) {
        let mut out = vec![0; size];
        for decode in [lz4_decode, lzjb_decode, zle_decode, gzip_decode, zstd_decode] {
            // Any verdict is fine; reaching the next line is the property.
            std::hint::black_box(decode(&data, &mut out)).ok();
        }
    }

    #[test]
    fn spoiled_zstd_never_panics(data in compressible(), spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), size in 0_usize..4096) {
        let mut packed = zstd_encode(&data, usize::MAX).expect("no limit");
        for (at, byte) in spoil {
            // The count in front stays, or little else is reached.
            let index = 8 + at.index(packed.len() - 8);
            packed[index] = byte;
        }
        std::hint::black_box(zstd_decode(&packed, &mut vec![0; size])).ok();
    }
}
