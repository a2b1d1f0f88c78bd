// Package history keeps the box's own series, so that its charts need no
// Prometheus: the last 24 hours by 5 minutes and the last 400 days by day. It
// knows neither what the series mean nor where its file lies.
package history

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Step is an interval of which one point is kept.
type Step struct {
	Length time.Duration
	keep   int // points
}

// Fine and Day are the steps. Days begin at midnight UTC.
var (
	Fine = Step{5 * time.Minute, 24 * 12}
	Day  = Step{24 * time.Hour, 400}
)

// maxSeries is how many series a point has at most: the names of some follow from
// the configuration and from what registries say.
const maxSeries = 64

// Read returns the present value of each series by its name, without those that
// have none now. Counters only grow while the process runs: a point holds by how
// much. Of the others it holds the last value. It must not use the History.
type Read func() (counters, values map[string]float64)

// Point is what happened in one step. A series without a value is not in it.
type Point struct {
	Start  time.Time          `json:"start"`
	Values map[string]float64 `json:"values"`
}

// History keeps the points. Its methods may be called concurrently. New returns one.
type History struct {
	read Read
	now  func() time.Time

	mu   sync.Mutex
	seen map[string]float64 // the counters at the last Sample
	fine []Point            // in order; the last one is not over
	days []Point
}

// New returns a history without points. What the counters have at this moment is
// not part of it.
func New(read Read, now func() time.Time) *History {
	counters, _ := read()
	h := &History{read: read, now: now, seen: make(map[string]float64)}
	maps.Copy(h.seen, counters)
	return h
}

// Sample adds what has happened since the last Sample to the present points. It
// is called several times in each Fine step.
func (h *History) Sample() {
	h.mu.Lock()
	defer h.mu.Unlock()
	counters, values := h.read() // in order, so that no counter seems to be reset
	grown := make(map[string]float64)
	for name, v := range counters {
		grown[name] = v - h.seen[name]
		if grown[name] < 0 { // it was reset
			grown[name] = v
		}
	}
	maps.Copy(h.seen, counters)
	now := h.now().UTC()
	h.fine = Fine.add(h.fine, now, values, grown)
	h.days = Day.add(h.days, now, values, grown)
}

// add puts values into the point of a time. When the clock was set back by less
// than a step, the last point goes on until the clock has caught up; points that
// are further ahead are of a wrong clock, and go.
func (s Step) add(points []Point, now time.Time, values, grown map[string]float64) []Point {
	start := now.Truncate(s.Length)
	for n := len(points); n > 0 && points[n-1].Start.Sub(start) > s.Length; n-- {
		points = points[:n-1]
	}
	if len(points) == 0 || points[len(points)-1].Start.Before(start) {
		points = append(points, Point{Start: start, Values: make(map[string]float64)})
		points = slices.Delete(points, 0, max(0, len(points)-s.keep))
	}
	last := points[len(points)-1].Values
	for name, v := range grown {
		if _, known := last[name]; known || len(last) < maxSeries {
			last[name] += v
		}
	}
	for name, v := range values {
		if _, known := last[name]; known || len(last) < maxSeries {
			last[name] = v
		}
	}
	return points
}

// Points returns the points of a step that begin at since or later, in order;
// the last one may not be over. Steps in which the box did not run have none.
func (h *History) Points(step Step, since time.Time) []Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	points := h.fine
	if step == Day {
		points = h.days
	}
	found := []Point{}
	for _, p := range points {
		if !p.Start.Before(since) {
			found = append(found, Point{p.Start, maps.Clone(p.Values)})
		}
	}
	return found
}

// file is the content of the file, JSON.
type file struct {
	Version int     `json:"version"`
	Fine    []Point `json:"fine"`
	Days    []Point `json:"days"`
}

const version = 1

// Save writes all points, some 200 KiB, at most 4 MiB.
func (h *History) Save(w io.Writer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return json.NewEncoder(w).Encode(file{Version: version, Fine: h.fine, Days: h.days})
}

// Load takes over what Save wrote, before the first Sample. After an error there
// are no points, as before.
func (h *History) Load(r io.Reader) error {
	var f file
	if err := json.NewDecoder(r).Decode(&f); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if f.Version != version {
		return fmt.Errorf("history: version %d, want %d", f.Version, version)
	}
	for _, points := range [][]Point{f.Fine, f.Days} {
		for i, p := range points {
			if p.Values == nil || i > 0 && !points[i-1].Start.Before(p.Start) {
				return fmt.Errorf("history: point %d is damaged", i)
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fine, h.days = Fine.latest(f.Fine), Day.latest(f.Days)
	return nil
}

func (s Step) latest(points []Point) []Point { return points[max(0, len(points)-s.keep):] }
