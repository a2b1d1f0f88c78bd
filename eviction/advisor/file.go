package advisor

import (
	"container/heap"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// file is the content of the file, as encoding/gob writes it.
type file struct {
	Version int
	Size    int64
	Watched time.Duration
	Halved  time.Time
	Lists   [2]listFile
}

const fileVersion = 1

// listFile is an Advisor. The objects of the sample are in the order of their last
// use, the latest last.
type listFile struct {
	Threshold       uint64
	Requests, Bytes int64
	Held, Total     weighted
	Hashes          []uint64
	Sizes           []int64
	Before          []float32 // negative where the object was fetched since
	Buckets         map[int]weighted
}

// maxFile is the most that Load reads, in bytes: twice what Save writes.
const maxFile = 4 << 20

// Save writes what was seen, at most 2 MiB.
func (c *Capacity) Save(w io.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size > 0 {
		c.age(c.size)
	}
	f := file{Version: fileVersion, Size: c.size, Watched: c.watched, Halved: c.halved}
	for i, list := range c.lists {
		f.Lists[i] = list.file()
	}
	return gob.NewEncoder(w).Encode(f)
}

// Load takes up what Save wrote, before anything is seen. After an error nothing was
// seen, as before.
func (c *Capacity) Load(r io.Reader) error {
	var f file
	if err := gob.NewDecoder(io.LimitReader(r, maxFile)).Decode(&f); err != nil {
		return fmt.Errorf("advisor: %w", err)
	}
	if f.Version != fileVersion {
		return fmt.Errorf("advisor: version %d, want %d", f.Version, fileVersion)
	}
	var lists [2]*Advisor
	for i, one := range f.Lists {
		lists[i] = New(c.lists[i].samples)
		if err := lists[i].load(one); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists, c.size, c.watched, c.halved = lists, f.Size, max(f.Watched, 0), f.Halved
	return nil
}

func (a *Advisor) file() listFile {
	a.lock()
	defer a.mu.Unlock()
	f := listFile{Threshold: a.threshold.Load(), Held: a.held, Total: a.hist.total, Buckets: make(map[int]weighted)}
	f.Requests, f.Bytes = a.Seen()
	for i, b := range a.hist.buckets {
		if b != (weighted{}) {
			f.Buckets[i] = b
		}
	}
	for at := int32(1); at <= a.recency.last; at++ {
		if a.recency.used[at] {
			hash := a.recency.who[at]
			p := a.sample[hash]
			if p.fetched {
				p.before = -p.before
			}
			f.Hashes, f.Sizes, f.Before = append(f.Hashes, hash), append(f.Sizes, p.size), append(f.Before, p.before)
		}
	}
	return f
}

var errDamaged = errors.New("advisor: the file is damaged")

// load fills an Advisor that has seen nothing.
func (a *Advisor) load(f listFile) error {
	n := len(f.Hashes)
	if n > a.samples || len(f.Sizes) != n || len(f.Before) != n || f.Requests < 0 || f.Bytes < 0 || !f.Held.valid() || !f.Total.valid() {
		return errDamaged
	}
	for i, hash := range f.Hashes {
		if _, twice := a.sample[hash]; twice || hash > f.Threshold || f.Sizes[i] < 0 || math.IsNaN(float64(f.Before[i])) {
			return errDamaged
		}
		p := place{size: f.Sizes[i], before: f.Before[i], at: a.append(hash, f.Sizes[i])}
		if p.fetched = p.before < 0; p.fetched {
			p.before = -p.before
		}
		a.sample[hash] = p
		heap.Push(&a.largest, hash)
	}
	for i, b := range f.Buckets {
		if i < 0 || i >= len(a.hist.buckets) || !b.valid() {
			return errDamaged
		}
		a.hist.buckets[i] = b
	}
	a.hist.total, a.held = f.Total, f.Held
	a.threshold.Store(f.Threshold)
	a.requests.Store(f.Requests)
	a.bytes.Store(f.Bytes)
	return nil
}

// valid reports whether it can be a number of requests and of bytes.
func (w weighted) valid() bool {
	return w.Requests >= 0 && w.Bytes >= 0 && !math.IsInf(w.Requests, 0) && !math.IsInf(w.Bytes, 0)
}
