import Testing

@testable import Loopback

/// The RFCs' own test vectors.
@Test func checksumsAreTheStandardOnes() {
    let digits = Array("123456789".utf8)
    #expect(unsafe digits.withUnsafeBytes { unsafe ~CRC32C.update(~0, $0) } == 0xe306_9283)
    #expect(md5("") == "d41d8cd98f00b204e9800998ecf8427e")
    #expect(md5("abc") == "900150983cd24fb0d6963f7d28e17f72")
    let long = String(repeating: "1234567890", count: 8)
    #expect(md5(long) == "57edf4a22be3c955ac49da2e2107b67a")
}

private func md5(_ text: String) -> String {
    var md5 = MD5()
    unsafe Array(text.utf8).withUnsafeBytes { unsafe md5.update($0) }
    let (low, high) = md5.finish()
    return [low, high].map { word in
        (0..<8).map { index in
            let byte = UInt8(truncatingIfNeeded: word >> UInt64(index * 8))
            return (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined()
    }.joined()
}

@Test(arguments: SectorChecksum.allCases)
func aWrongSectorIsFound(_ checksum: SectorChecksum) throws {
    let pattern = SectorPattern(checksum: checksum, seed: 1)
    let block = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 8)
    defer { unsafe block.deallocate() }
    func fault(_ generation: UInt32? = 3) -> SectorFault? {
        do {
            unsafe try pattern.check(block, sector: 80, count: 8, generation: generation)
            return nil
        } catch {
            return error
        }
    }
    unsafe pattern.fill(block, sector: 80, count: 8, generation: 3)
    #expect(fault() == nil)
    #expect(fault(nil) == nil)
    #expect(fault(4) == SectorFault(sector: 80, kind: .otherGeneration(expected: 4, found: 3)))
    // Two sectors of the right block in each other's place.
    unsafe pattern.fill(block + 2 * 512, sector: 83, count: 1, generation: 3)
    #expect(fault() == SectorFault(sector: 82, kind: .otherSector(83)))
    unsafe pattern.fill(block + 2 * 512, sector: 82, count: 1, generation: 2)
    #expect(fault() == SectorFault(sector: 82, kind: .otherGeneration(expected: 3, found: 2)))
    unsafe pattern.fill(block, sector: 80, count: 8, generation: 3)
    for offset in [7 * 512 + 41, 7 * 512 + 17, 7 * 512 + 25] {
        let byte = unsafe block.load(fromByteOffset: offset, as: UInt8.self)
        unsafe block.storeBytes(of: byte ^ 1, toByteOffset: offset, as: UInt8.self)
        #expect(fault() == SectorFault(sector: 87, kind: .damaged))
        unsafe block.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
    }
    unsafe block.initializeMemory(as: UInt8.self, repeating: 0, count: 512)
    #expect(fault() == SectorFault(sector: 80, kind: .unmarked))
}
