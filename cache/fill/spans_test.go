package fill

import (
	"math/rand/v2"
	"testing"
)

// TestSpansAgainstBitmap adds random spans and compares with a plain bitmap.
func TestSpansAgainstBitmap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const n = 200
	for range 500 {
		var m spans
		var bits [n]bool
		for range rnd.IntN(20) {
			off := rnd.Int64N(n)
			s := span{off, off + rnd.Int64N(n-off+1)}
			m.add(s)
			for i := s.off; i < s.end; i++ {
				bits[i] = true
			}
		}
		for i := 1; i < len(m); i++ {
			if m[i-1].end >= m[i].off {
				t.Fatalf("%v overlap or touch", m)
			}
		}
		for off := range int64(n) {
			want := off
			for want < n && bits[want] {
				want++
			}
			if got := m.endFrom(off); got != want {
				t.Fatalf("%v.endFrom(%d) = %d, want %d", m, off, got, want)
			}
		}
	}
}
