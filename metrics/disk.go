package metrics

import "github.com/prometheus/client_golang/prometheus"

// Trouble is why the cache does not work as it should, though it serves.
type Trouble uint8

// The troubles.
const (
	TroubleReadOnly Trouble = iota // the file system takes no writes
	TroubleSpace                   // others have filled the file system
	TroubleInodes                  // the file system makes no more files
	TroubleWrites                  // the disk refused a write within the last minute
	TroubleIndex                   // the index lives in memory only
	TroubleReads                   // files that are held, or directories of them, cannot be read
	troubles
)

var troubleNames = [troubles]string{"read_only", "space", "inodes", "writes", "index", "reads"}

func (t Trouble) String() string { return troubleNames[t] }

// Troubles is a set of them.
type Troubles uint32

// With adds one to the set where it is so.
func (s Troubles) With(t Trouble, so bool) Troubles {
	if so {
		s |= 1 << t
	}
	return s
}

// Names are the names of those in the set.
func (s Troubles) Names() (names []string) {
	for t := range troubles {
		if s&(1<<t) != 0 {
			names = append(names, t.String())
		}
	}
	return names
}

// Disk shows the condition of the data directory.
type Disk struct {
	degraded []prometheus.Gauge
}

func newDisk(registry prometheus.Registerer) *Disk {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "degraded",
		Help: "1 while the disk is in trouble, by reason: read_only (no writes), space (full), inodes (none left), writes (a write failed within the last minute), reads (cached files cannot be read), index (kept in memory only). Cached content is served; new content may be uncached.",
	}, []string{"reason"})
	registry.MustRegister(vec)
	d := &Disk{}
	for _, name := range troubleNames {
		d.degraded = append(d.degraded, vec.WithLabelValues(name))
	}
	return d
}

// Set shows the troubles of this moment.
func (d *Disk) Set(s Troubles) {
	for t, g := range d.degraded {
		g.Set(float64(s >> t & 1))
	}
}
