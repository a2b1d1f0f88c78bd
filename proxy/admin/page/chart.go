package page

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/units"
)

// span is a length of time that a chart shows, in bars of equal length.
type span struct {
	Name   string // in the query
	Title  string
	step   string // of the API's history
	bar    time.Duration
	bars   int
	Format string // of the beginning of a bar
}

const day = 24 * time.Hour

var spans = map[string]span{
	"24h": {"24h", "24 hours", "5m", time.Hour, 24, "15:04"},
	"30d": {"30d", "30 days", "1d", day, 30, "2 Jan"},
	"1y":  {"1y", "1 year", "1d", 7 * day, 53, "2 Jan 2006"},
}

// bucket is what happened during a bar.
type bucket struct {
	Start        time.Time
	Cached, From int64 // bytes to clients that came from the cache, and bytes from registries
	Requests     int64
	Hits         int64              // requests that needed no download of their own
	values       map[string]float64 // of the last point in it
}

// series returns the bars of a span, the last one of now. One in which the box did
// not run has no values.
func (r *request) series(s span) []bucket {
	first := r.p.o.Now().UTC().Truncate(s.bar).Add(-time.Duration(s.bars-1) * s.bar)
	bars := make([]bucket, s.bars)
	for i := range bars {
		bars[i].Start = first.Add(time.Duration(i) * s.bar)
	}
	for _, p := range get[api.History](r, "history", url.Values{"step": {s.step}, "since": {first.Format(time.RFC3339)}}).Points {
		i := int(p.Start.Sub(first) / s.bar)
		if i < 0 || i >= len(bars) {
			continue
		}
		b, v := &bars[i], p.Values
		b.Cached += int64(max(v["client_bytes"]-v["upstream_bytes"], 0))
		b.From += int64(v["upstream_bytes"])
		b.Requests += int64(v["requests"])
		b.Hits += int64(v["cached"])
		b.values = v
	}
	return bars
}

// chart is a bar chart, and the same as a table. Its picture is 1000 wide and
// chartHeight high.
type chart struct {
	span
	Spans []span
	Bars  []chartBar
	Rows  []bucket // the latest first, without those in which nothing happened
	Top   int64    // bytes of the highest bar; 0 for an empty chart
	First time.Time
}

// chartBar is a bar of two parts, that from the cache on top.
type chartBar struct{ X, Width, CachedY, CachedHeight, FromY, FromHeight float64 }

const (
	chartWidth  = 1000
	chartHeight = 200
)

// chart returns the chart of the span that the query names.
func (r *request) chart() *chart {
	s, ok := spans[r.q.Get("chart")]
	if !ok {
		s = spans["24h"]
	}
	bars := r.series(s)
	c := &chart{span: s, Spans: []span{spans["24h"], spans["30d"], spans["1y"]}, First: bars[0].Start}
	for _, b := range bars {
		c.Top = max(c.Top, b.Cached+b.From)
		if b.Requests > 0 || b.Cached+b.From > 0 {
			c.Rows = append(c.Rows, b)
		}
	}
	slices.Reverse(c.Rows)
	if c.Top == 0 {
		return c
	}
	step := float64(chartWidth) / float64(len(bars))
	for i, b := range bars {
		cached, from := units.Ratio(b.Cached, c.Top)*chartHeight, units.Ratio(b.From, c.Top)*chartHeight
		c.Bars = append(c.Bars, chartBar{
			X: float64(i)*step + step/10, Width: step * 4 / 5,
			CachedY: chartHeight - cached - from, CachedHeight: cached, FromY: chartHeight - from, FromHeight: from,
		})
	}
	return c
}

// spark returns the points of a line through what value returns, 100 wide and
// sparkHeight high; empty where there are fewer than two.
func spark(bars []bucket, value func(bucket) (float64, bool)) string {
	top, known := 0., 0
	for _, b := range bars {
		if v, ok := value(b); ok {
			known++
			top = max(top, v)
		}
	}
	if known < 2 || top == 0 {
		return ""
	}
	var points strings.Builder
	for i, b := range bars {
		if v, ok := value(b); ok {
			fmt.Fprintf(&points, "%.1f,%.1f ", float64(i)*100/float64(len(bars)-1), sparkHeight-1-v/top*(sparkHeight-2))
		}
	}
	return strings.TrimSpace(points.String())
}
