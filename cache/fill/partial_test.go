package fill

import (
	"fmt"
	"testing"
)

func FuzzNote(f *testing.F) {
	f.Add(encodeNote(int64(20*mib), spans{{0, mib}, {2 * mib, 3 * mib}}, ""), int64(4*mib))
	f.Add([]byte(`{"size":-1,"spans":[[0,1]]}`), int64(1))
	f.Add([]byte(`{"size":9,"spans":[[5,2],[0,100]]}`), int64(9))
	f.Fuzz(func(t *testing.T, encoded []byte, length int64) {
		n, have, ok := decodeNote(encoded, length)
		if !ok {
			return
		}
		for i, s := range have {
			if s.off < 0 || s.off >= s.end || s.end > min(n.Size, length) || i > 0 && s.off <= have[i-1].end {
				t.Fatalf("%v of %d, file of %d", have, n.Size, length)
			}
		}
		again, same, ok := decodeNote(encodeNote(n.Size, have, ""), length)
		if !ok || again.Size != n.Size || fmt.Sprint(same) != fmt.Sprint(have) {
			t.Fatalf("%v became %v", have, same)
		}
	})
}
