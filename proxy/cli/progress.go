package cli

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hubcap/proxy/units"
)

// plainEvery is how often progress is written as a line, where there is no
// terminal.
const plainEvery = 10 * time.Second

// progress shows how far something is: a bar on a terminal, else lines.
type progress struct {
	w    io.Writer
	now  func() time.Time
	bars *mpb.Progress // nil without a terminal
	bar  *mpb.Bar
	text atomic.Pointer[string] // beside the bar, which another goroutine draws
	last time.Time              // of the last line
}

// newProgress returns a progress that shows nothing yet. The caller calls end.
func (p *program) newProgress() *progress {
	one := &progress{w: p.Stderr, now: p.Now, last: p.Now()}
	one.text.Store(new(string))
	if isTerminal(p.Stderr) {
		one.bars = mpb.New(mpb.WithOutput(p.Stderr), mpb.WithWidth(60))
		one.bar = one.bars.AddBar(0, mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *one.text.Load() })))
	}
	return one
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// set says how many bytes of how many are done, at how many a second. left is in
// seconds, nil if that is not known.
func (o *progress) set(done, total, rate int64, left *int64) {
	text := fmt.Sprintf("%s  %s  %s/s", units.Percent(units.Ratio(done, total)), units.BytesOf(done, total), units.Bytes(rate))
	if left != nil {
		text += "  " + units.Seconds(*left)
	}
	if o.bars != nil {
		o.text.Store(&text)
		o.bar.SetTotal(max(total, 1), false)
		o.bar.SetCurrent(done)
		return
	}
	if now := o.now(); now.Sub(o.last) >= plainEvery {
		o.last = now
		_, _ = fmt.Fprintln(o.w, text) // progress that cannot be shown is no failure
	}
}

// end takes the bar away. It may be called again.
func (o *progress) end() {
	if o.bars != nil {
		o.bar.Abort(true)
		o.bars.Wait()
		o.bars = nil
	}
}
