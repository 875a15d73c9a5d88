/// Ended operations from oldest to newest, in a table used as a circle.
///
/// Safe because the table lives from `init` to `deinit` and positions are taken modulo its size, a power of two.
@safe struct EndedOperations: ~Copyable {
    let capacity: Int
    private let ended: UnsafeMutablePointer<IOCompletion>
    private let mask: Int
    private var head = 0
    private var tail = 0

    /// - Parameter capacity: ends that can be held, at least 1.
    init(capacity: Int) {
        let size = 1 << (Int.bitWidth - (capacity - 1).leadingZeroBitCount)
        unsafe ended = .allocate(capacity: size)
        unsafe ended.initialize(repeating: IOCompletion(tag: 0, result: 0), count: size)
        mask = size - 1
        self.capacity = capacity
    }

    deinit {
        unsafe ended.deallocate()
    }

    var isEmpty: Bool { @_noLocks get { head == tail } }

    /// Ends that can be added.
    var room: Int { @_noLocks get { capacity &- (tail &- head) } }

    /// Adds one; the caller has asked for room.
    @_noLocks mutating func append(_ end: IOCompletion) {
        unsafe ended[tail & mask] = end
        tail &+= 1
    }

    /// Moves the oldest, at most `capacity`, into `completions`; how many.
    @_noLocks mutating func take(_ completions: UnsafeMutablePointer<IOCompletion>, _ capacity: Int) -> Int {
        let count = max(0, min(capacity, tail &- head))
        for index in 0..<count {
            unsafe completions[index] = unsafe ended[head & mask]
            head &+= 1
        }
        return count
    }
}
