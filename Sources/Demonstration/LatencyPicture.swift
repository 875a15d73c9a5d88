public import Descriptors
internal import Loopback
internal import Telemetry

/// Latency distributions as a picture (SVG 1.1): a panel for each workload, all above one logarithmic axis.
public struct LatencyPicture: Sendable {
    /// One distribution.
    public struct Curve: Sendable {
        public let name: String
        public let figures: ReadFigures

        public init(_ name: String, _ figures: ReadFigures) {
            self.name = name
            self.figures = figures
        }
    }

    /// Distributions to be compared.
    public struct Panel: Sendable {
        public let title: String
        public let curves: [Curve]

        public init(_ title: String, _ curves: [Curve]) {
            self.title = title
            self.curves = curves
        }
    }

    private let title: String
    private let subtitle: String
    private let panels: [Panel]
    private let axis: LatencyAxis

    public init(title: String, subtitle: String, panels: [Panel]) {
        self.title = title
        self.subtitle = subtitle
        self.panels = panels
        axis = LatencyAxis(for: panels.flatMap { $0.curves.map(\.figures.latency) })
    }

    /// Reads through the ring and by fio.
    public init(_ comparisons: [ReadComparison], subtitle: String) {
        let panels = comparisons.map { comparison in
            let ring = Curve("xen-blkbackd", comparison.ring)
            let fio = comparison.reference.map { [Curve("fio", $0)] } ?? []
            return Panel(comparison.workload.title, [ring] + fio)
        }
        self.init(title: "How long a read takes", subtitle: subtitle, panels: panels)
    }

    /// Makes a file of the document, or replaces one.
    public func write(to path: String) throws(Fault) {
        try HostFile.write(Array(svg.utf8), to: path)
    }

    /// The whole document.
    public var svg: String {
        var canvas = SVG(width: Layout.width, height: Layout.height(panels: panels.count))
        drawHead(&canvas)
        for (index, panel) in panels.enumerated() { draw(panel, top: Layout.top(ofPanel: index), &canvas) }
        drawAxis(&canvas)
        return canvas.document
    }

    // ---- Head and legend

    private func drawHead(_ canvas: inout SVG) {
        canvas.text(title, x: Layout.left, y: 34, .title)
        canvas.text(subtitle, x: Layout.left, y: 56, .quiet)
        var x = Layout.left
        for (index, name) in curveNames.enumerated() {
            canvas.rectangle(x: x, y: 71, width: 22, height: 10, fill: Palette.colour(index), opacity: 0.75)
            canvas.text(name, x: x + 29, y: 80, .label)
            x += 29 + SVG.width(of: name) + 26
        }
        canvas.line(x, 76, x + 26, 76, stroke: Palette.ink)
        canvas.text("p50", x: x + 32, y: 80, .label)
        canvas.line(x + 76, 76, x + 102, 76, stroke: Palette.ink, dashes: Palette.dashes)
        canvas.text("p99", x: x + 108, y: 80, .label)
    }

    /// In the order in which the panels name them first.
    private var curveNames: [String] {
        panels.flatMap { $0.curves.map(\.name) }.reduce(into: []) { names, name in
            if !names.contains(name) { names.append(name) }
        }
    }

    private func colour(of curve: Curve) -> String {
        Palette.colour(curveNames.firstIndex(of: curve.name) ?? 0)
    }

    // ---- Panels

    private func draw(_ panel: Panel, top: Double, _ canvas: inout SVG) {
        canvas.text(panel.title, x: Layout.left, y: top + 14, .heading)
        canvas.text(Self.throughput(of: panel), x: Layout.right, y: top + 14, .quiet, anchor: .end)
        let plot = Plot(top: top + Layout.plotOffset, peak: peak(of: panel))
        drawGrid(plot, &canvas)
        for curve in panel.curves { draw(curve, in: plot, &canvas) }
        draw(marks(of: panel, in: plot), in: plot, &canvas)
    }

    /// `ring 210,000 IOPS · fio 250,000 IOPS`
    private static func throughput(of panel: Panel) -> String {
        panel.curves.map { "\($0.name) \(Quantity.grouped($0.figures.readsPerSecond)) IOPS" }.joined(separator: " · ")
    }

    private func peak(of panel: Panel) -> Double {
        panel.curves.flatMap { axis.shares($0.figures.latency) }.max() ?? 0
    }

    private func drawGrid(_ plot: Plot, _ canvas: inout SVG) {
        for tick in axis.ticks {
            let x = Layout.x(axis.position(Double(tick)))
            canvas.line(x, plot.top, x, plot.bottom, stroke: Palette.grid)
        }
        for percent in plot.ticks {
            let y = plot.y(Double(percent) / 100)
            canvas.line(Layout.left, y, Layout.right, y, stroke: percent == 0 ? Palette.ink : Palette.grid)
            canvas.text("\(percent) %", x: Layout.left - 8, y: y + 4, .quiet, anchor: .end)
        }
    }

    /// From the first to the last bin with something to be seen in it, so that the axis stays visible beside it.
    private func draw(_ curve: Curve, in plot: Plot, _ canvas: inout SVG) {
        let shares = axis.shares(curve.figures.latency)
        guard let first = shares.firstIndex(where: { $0 > Self.visibleShare }),
            let last = shares.lastIndex(where: { $0 > Self.visibleShare })
        else { return }
        let width = Layout.plotWidth / Double(shares.count)
        let points = (first...last).map { bin in
            (x: Layout.left + (Double(bin) + 0.5) * width, y: plot.y(shares[bin]))
        }
        let start = (x: Layout.left + max(Double(first) - 0.5, 0) * width, y: plot.bottom)
        let end = (x: min(Layout.left + (Double(last) + 1.5) * width, Layout.right), y: plot.bottom)
        canvas.curve([start] + points + [end], colour: colour(of: curve))
    }

    /// About the tenth of a pixel.
    private static let visibleShare = 0.000_2

    /// A percentile of a curve: its line, and its label in a row above the plot.
    private struct Mark {
        let label: String
        let x, baseline: Double
        let colour: String
        /// p50's label is to the left of its line and p99's to the right, so that they never meet.
        let isToTheLeft: Bool
    }

    /// A row of labels for each curve.
    private func marks(of panel: Panel, in plot: Plot) -> [Mark] {
        panel.curves.enumerated().filter { $0.element.figures.latency.total > 0 }.flatMap { row, curve in
            [("p50", 0.5), ("p99", 0.99)].map { name, fraction in
                let value = curve.figures.latency.quantile(fraction)
                return Mark(
                    label: "\(name) \(Quantity.microseconds(value)) µs",
                    x: Layout.x(axis.position(Double(value))),
                    baseline: plot.top - 6 - Double(row) * Layout.labelRow,
                    colour: colour(of: curve), isToTheLeft: name == "p50")
            }
        }
    }

    /// All lines before all labels: a label may cover another curve's line.
    private func draw(_ marks: [Mark], in plot: Plot, _ canvas: inout SVG) {
        for mark in marks {
            canvas.line(
                mark.x, mark.baseline - 9, mark.x, plot.bottom, stroke: mark.colour,
                dashes: mark.isToTheLeft ? nil : Palette.dashes)
        }
        for mark in marks {
            canvas.text(
                mark.label, x: mark.x + (mark.isToTheLeft ? -5 : 5), y: mark.baseline, .mark,
                anchor: mark.isToTheLeft ? .end : .start, colour: mark.colour)
        }
    }

    // ---- The common axis

    private func drawAxis(_ canvas: inout SVG) {
        let bottom = Layout.top(ofPanel: panels.count) - Layout.panelGap
        for tick in axis.ticks {
            let x = Layout.x(axis.position(Double(tick)))
            canvas.line(x, bottom, x, bottom + 5, stroke: Palette.ink)
            canvas.text(Self.tickLabel(tick), x: x, y: bottom + 20, .quiet, anchor: .middle)
        }
        canvas.text(
            "Latency of a read in microseconds (logarithmic)", x: Layout.left + Layout.plotWidth / 2, y: bottom + 44,
            .label,
            anchor: .middle)
        let middle = (Layout.top(ofPanel: 0) + bottom) / 2
        canvas.text(
            "Share of reads (in each 1/20 decade of latency)", x: 22, y: middle, .label, anchor: .middle,
            isUpright: true)
    }

    private static func tickLabel(_ nanoseconds: UInt64) -> String {
        let microseconds = Double(nanoseconds) / 1000
        return nanoseconds < 1000 ? Quantity.fixed(microseconds, decimals: 1) : Quantity.grouped(microseconds)
    }
}

/// Where things are, in SVG's pixels.
private enum Layout {
    static let width = 960.0
    static let left = 84.0
    static let right = 930.0
    static let plotHeight = 130.0
    /// From a panel's top to its plot: its title and two rows of labels.
    static let plotOffset = 62.0
    static let labelRow = 16.0
    static let panelGap = 26.0

    static var plotWidth: Double { right - left }
    static func top(ofPanel index: Int) -> Double { 108 + Double(index) * (plotOffset + plotHeight + panelGap) }
    static func height(panels: Int) -> Double { top(ofPanel: panels) - panelGap + 60 }
    static func x(_ position: Double) -> Double { left + position * plotWidth }
}

private enum Palette {
    static let ink = "#1f2328"
    static let grid = "#e3e6ea"
    static let dashes = "5 4"

    /// Okabe and Ito's colours, which all eyes can tell apart.
    static func colour(_ index: Int) -> String { ["#0072b2", "#d55e00", "#009e73", "#cc79a7"][index % 4] }
}

/// A panel's vertical scale.
private struct Plot {
    let top: Double
    private let highest: Int
    private let step: Int

    /// - Parameter peak: the largest share.
    init(top: Double, peak: Double) {
        self.top = top
        let percent = min(max(peak, 0), 1) * 100
        step = [1, 2, 5, 10, 20].first { Double($0) * 4 >= percent } ?? 25
        highest = max(Int((percent / Double(step)).rounded(.up)), 1) * step
    }

    var bottom: Double { top + Layout.plotHeight }
    /// In percent.
    var ticks: [Int] { Array(stride(from: 0, through: highest, by: step)) }
    func y(_ share: Double) -> Double { bottom - share * 100 / Double(highest) * Layout.plotHeight }
}
