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
        for (row, curve) in panel.curves.enumerated() { mark(curve, row: row, in: plot, &canvas) }
    }

    /// `ring 210,000 IOPS, fio 250,000 IOPS`
    private static func throughput(of panel: Panel) -> String {
        panel.curves.map { "\($0.name) \(Quantity.grouped($0.figures.readsPerSecond)) IOPS" }.joined(separator: ", ")
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

    private func draw(_ curve: Curve, in plot: Plot, _ canvas: inout SVG) {
        let shares = axis.shares(curve.figures.latency)
        let width = Layout.plotWidth / Double(max(shares.count, 1))
        let points = shares.enumerated().map { bin, share in
            (x: Layout.left + (Double(bin) + 0.5) * width, y: plot.y(share))
        }
        let ends = [(x: Layout.left, y: plot.bottom), (x: Layout.right, y: plot.bottom)]
        canvas.curve([ends[0]] + points + [ends[1]], colour: colour(of: curve))
    }

    /// Lines at the percentiles, and a row of labels above the plot: p50 to the left of its line, p99 to the right, so that
    /// they never meet.
    private func mark(_ curve: Curve, row: Int, in plot: Plot, _ canvas: inout SVG) {
        let latency = curve.figures.latency
        guard latency.total > 0 else { return }
        let baseline = plot.top - 6 - Double(row) * Layout.labelRow
        for (name, fraction, anchor) in [("p50", 0.5, SVG.Anchor.end), ("p99", 0.99, .start)] {
            let value = latency.quantile(fraction)
            let x = Layout.x(axis.position(Double(value)))
            canvas.line(
                x, baseline - 9, x, plot.bottom, stroke: colour(of: curve),
                dashes: anchor == .end ? nil : Palette.dashes)
            canvas.text(
                "\(name) \(Quantity.microseconds(value)) µs", x: x + (anchor == .end ? -5 : 5), y: baseline, .label,
                anchor: anchor, colour: colour(of: curve))
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
            "Share of all reads, by latency (bins of 1/20 decade)", x: 22, y: middle, .label, anchor: .middle,
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
