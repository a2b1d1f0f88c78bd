package crash

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkGrowth asks a box that holds a thousand blobs, and one that holds a million,
// for a held blob of 100 KB, a held manifest by its tag, and its metrics. It prints the
// median of the time until an answer is whole.
func BenchmarkGrowth(b *testing.B) {
	for _, files := range []int{1_000, 1_000_000} {
		s := newSite(b, begin(b), "HUBCAP_CACHE_SIZE=64GiB")
		dir := b.TempDir()
		litter(b, dir, files)
		s.start(b, dir)
		waitUntil(b, "the files are counted", func() bool { return opened.Match(s.box.log.Bytes()) })
		held, image := s.publish(100_000), s.tagged("held")
		s.hold(b, held)
		for _, one := range []struct {
			what string
			ask  func() error
		}{
			{"blob", func() error { return s.box.get(b.Context(), held, 0).err }},
			{"tag", func() error { return s.box.getPath(b.Context(), manifestPath("held"), image, 0).err }},
			{"scrape", func() error {
				if s.box.scrape() == nil {
					return errors.New("no metrics")
				}
				return nil
			}},
		} {
			b.Run(fmt.Sprintf("blobs=%d/%s", files, one.what), func(b *testing.B) { median(b, one.ask) })
		}
		s.box.stop(b)
	}
}

func median(b *testing.B, ask func() error) {
	var took []time.Duration
	for b.Loop() {
		before := time.Now()
		if err := ask(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(before))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
}
