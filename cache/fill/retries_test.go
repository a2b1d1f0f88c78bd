package fill

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
)

// timedOut is the time-out of a silent source.
type timedOut struct{}

func (timedOut) Error() string { return "nothing came" }
func (timedOut) Timeout() bool { return true }

// TestReaderRepeats counts the requests for a blob whose bytes never come: three, and
// two if each ends with a time-out. A byte between them starts the count again. The
// method Temporary of a system error is not that of a SourceError.
func TestReaderRepeats(t *testing.T) {
	broken := errors.New("broken")
	const size = 100
	for name, tc := range map[string]struct {
		open  error // of Open
		body  error // of reading
		bytes int64 // that come before it
		opens int64
	}{
		"refused":           {open: broken, opens: 1 + maxBreaks},
		"cut at once":       {body: broken, opens: 1 + maxBreaks},
		"times out":         {open: timedOut{}, opens: 1 + maxSilences},
		"stalls at once":    {body: timedOut{}, opens: 1 + maxSilences},
		"stalls after some": {body: timedOut{}, bytes: 40, opens: 3},
		"cut after some":    {body: broken, bytes: 40, opens: 3},
		"reset after some":  {body: &net.OpError{Op: "read", Err: syscall.ECONNRESET}, bytes: 40, opens: 3},
		"refused for ever":  {open: permanent{broken}, opens: 1},
		"all at once":       {bytes: size, opens: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opens atomic.Int64
			src := sourceFunc(func(ctx context.Context, off, _ int64) (*Stream, error) {
				opens.Add(1)
				if !Repeats(ctx) {
					t.Error("Repeats is false")
				}
				if tc.open != nil {
					return nil, tc.open
				}
				body := io.MultiReader(io.LimitReader(zeros{}, tc.bytes), errReader{tc.body})
				return &Stream{Body: io.NopCloser(body), Off: off, End: size, Size: size}, nil
			})
			r := &resumer{ctx: t.Context(), source: &src, end: size, size: size, resumed: func() {}}
			got, err := io.ReadAll(r)
			if complete := len(got) == size; complete != (err == nil) || complete != (tc.bytes > 0) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if opens.Load() != tc.opens {
				t.Errorf("%d requests, want %d", opens.Load(), tc.opens)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
