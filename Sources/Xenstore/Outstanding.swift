internal import CLinux

/// The requests of one call: which were sent, and the answers so far, matched by request id.
struct Outstanding {
    private let requests: [XenstoreRequest]
    private var answers: [Reply?]
    private var indices: [UInt32: Int] = [:]
    private var sentCount = 0
    private var answeredCount = 0

    init(_ requests: [XenstoreRequest]) {
        self.requests = requests
        answers = Array(repeating: nil, count: requests.count)
    }

    var isDone: Bool { answeredCount == requests.count }
    var replies: [Reply] { answers.compactMap(\.self) }

    /// The oldest request without an answer, for an error message.
    var description: String {
        indices.values.min().map { requests[$0].description } ?? "xenstore"
    }

    func canSend(window: Int) -> Bool { sentCount < requests.count && indices.count < window }

    /// The next request to send; nil if all are sent or enough are in flight.
    func next(window: Int) -> Int? { canSend(window: window) ? sentCount : nil }

    mutating func sent(_ index: Int, id: UInt32) {
        indices[id] = index
        sentCount = index + 1
    }

    /// Takes an answer. One that nobody asked for, or of another type, means that the stream cannot be trusted.
    mutating func answer(_ frame: XenstoreFrame) throws(XenstoreError) {
        guard let index = indices.removeValue(forKey: frame.request) else {
            throw .protocolViolation("answer to unknown request \(frame.request)")
        }
        let request = requests[index]
        switch frame.operation {
        case .error: answers[index] = .refused(XenstoreErrorName(payload: frame.payload))
        case request.operation: answers[index] = .done(frame.payload)
        default: throw .protocolViolation("\(request.description) answered with type \(frame.type)")
        }
        answeredCount += 1
    }
}

/// A point in monotonic time.
struct Deadline {
    private let end: UInt64

    init(milliseconds: UInt32) {
        end = linux_monotonic_nanoseconds() &+ UInt64(milliseconds) * 1_000_000
    }

    /// Rounded up, so that a wait never ends just before the deadline; 0 when it has passed.
    var millisecondsLeft: Int32 {
        let now = linux_monotonic_nanoseconds()
        guard now < end else { return 0 }
        return Int32(clamping: (end - now + 999_999) / 1_000_000)
    }
}
