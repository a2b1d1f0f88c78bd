package logging

import (
	"bufio"
	"bytes"
	"fmt"
	stdlog "log"
	"log/slog"
	"os"
	"sync"
	"time"
)

// maxCaptured is the longest text of one captured line, in bytes; the rest
// becomes further lines.
const maxCaptured = 8 << 10

// flushStandard is how long a line of the standard library's log waits until it
// is written: log.Fatal ends the process right behind it.
const flushStandard = time.Second

// Capture has everything logged that would reach standard error by another way:
// slog's and the standard library's default loggers, and what libraries, and
// programs that they start, write to os.Stderr. Go's own messages about a
// process that dies go to the file descriptor itself and stay as they are.
// Capture is called once, before other goroutines run; release undoes it and
// logs what has come until then, for the time within at most.
func (l *Log) Capture() (release func(within time.Duration), err error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("a pipe for standard error: %w", err)
	}
	stderr, std := os.Stderr, slog.Default()
	os.Stderr = to
	slog.SetDefault(l.Logger)
	stdlog.SetFlags(0)
	stdlog.SetOutput(standard{l})
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewReaderSize(from, maxCaptured); ; {
			line, _, err := lines.ReadLine()
			l.captured(line)
			if err != nil {
				return
			}
		}
	})
	return func(within time.Duration) {
		os.Stderr = stderr
		slog.SetDefault(std)
		stdlog.SetFlags(stdlog.LstdFlags)
		stdlog.SetOutput(stderr)
		_ = to.Close()
		_ = from.SetReadDeadline(time.Now().Add(within)) // programs that were started may keep it open
		reading.Wait()
		_ = from.Close()
	}, nil
}

// captured logs a line that did not come through slog.
func (l *Log) captured(text []byte) {
	if text = bytes.TrimSpace(text); len(text) > 0 {
		l.Warn("standard error", "text", string(text))
	}
}

// standard is the output of the standard library's log.
type standard struct{ *Log }

// Write implements io.Writer.
func (s standard) Write(line []byte) (int, error) {
	s.captured(line)
	s.Flush(flushStandard)
	return len(line), nil
}
