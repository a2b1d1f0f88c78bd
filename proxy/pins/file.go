package pins

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"hubcap/cache/index"
	"hubcap/proxy/warm"
)

// maxFile is the size in bytes of the largest pins file that is read.
const maxFile = 1 << 20

// FileStatus is the state of the pins file.
type FileStatus struct {
	Path string    `json:"path,omitempty"`  // empty if there is none
	Read time.Time `json:"read,omitzero"`   // when it was last read
	Err  string    `json:"error,omitempty"` // why it cannot be read; what it last said holds until it can
	Bad  []BadLine `json:"bad,omitempty"`
}

// BadLine is a line of the pins file that says nothing.
type BadLine struct {
	Line int    `json:"line"` // from 1
	Why  string `json:"why"`
}

// fileState is what the pins file looked like.
type fileState struct {
	now  os.FileInfo // at the last look
	read os.FileInfo // when it was last read
}

// same reports whether a file looks as it did: as soon as it is written or
// replaced, it does not.
func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// readFile takes over what the pins file says, once it looks the same at two
// looks: until then it may be in the middle of being written. p.changing is held.
func (p *Pins) readFile() {
	if p.o.File == "" {
		if p.file.Read.IsZero() {
			p.setFile(nil, FileStatus{Read: p.o.Now()})
		}
		return
	}
	now, err := os.Stat(p.o.File)
	stable := same(p.seen.now, now)
	p.seen.now = now
	if err == nil && (!stable || same(p.seen.read, now)) {
		return
	}
	var text []byte
	if err == nil {
		text, err = readAll(p.o.File)
	}
	if err != nil {
		p.fileFailed(err)
		return
	}
	p.seen.read = now
	lines, bad := p.parseFile(text)
	status := FileStatus{Path: p.o.File, Read: p.o.Now(), Bad: bad}
	p.o.Log.Info("the pins file is read", "file", p.o.File, "images", len(lines), "bad_lines", len(bad))
	for i, b := range bad {
		if i == maxLogged {
			p.o.Log.Warn("further lines of the pins file cannot be used", "lines", len(bad)-maxLogged)
			break
		}
		p.o.Log.Warn("a line of the pins file cannot be used; the others hold", "file", p.o.File, "line", b.Line, "err", b.Why)
	}
	p.setFile(lines, status)
}

// maxLogged is how many bad lines are logged.
const maxLogged = 10

func readAll(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return text, err
}

// fileFailed notes that the file cannot be read. What it last said holds.
func (p *Pins) fileFailed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file.Err != err.Error() {
		p.o.Log.Warn("the pins file cannot be read; what it last said holds", "file", p.o.File, "err", err)
	}
	p.file.Path, p.file.Err = p.o.File, err.Error()
	p.seen.read = nil
}

// parseFile returns the pins that a file asks for, and the lines that ask for
// none: a reference a line, and after it options; # begins a comment.
func (p *Pins) parseFile(text []byte) (lines []*pin, bad []BadLine) {
	known := make(map[string]int) // the line of each reference
	number := 0
	for text := range bytes.Lines(text) {
		number++
		one, err := p.parseLine(string(text))
		switch {
		case err != nil:
			bad = append(bad, BadLine{number, err.Error()})
		case one == nil:
		case known[one.key()] > 0:
			bad = append(bad, BadLine{number, fmt.Sprintf("%s is in line %d already", one.key(), known[one.key()])})
		default:
			known[one.key()] = number
			lines = append(lines, one)
		}
	}
	return lines, bad
}

// parseLine returns the pin of a line; nil if it is empty.
func (p *Pins) parseLine(text string) (*pin, error) {
	fields := strings.Fields(text)
	if comment := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "#") }); comment >= 0 {
		fields = fields[:comment]
	}
	if len(fields) == 0 {
		return nil, nil //nolint:nilnil // neither a pin nor a mistake
	}
	one, err := p.parse(fields[0])
	if err != nil {
		return nil, err
	}
	one.By = byFile
	for _, option := range fields[1:] {
		name, value, _ := strings.Cut(option, "=")
		if name != "platforms" || value == "" {
			return nil, fmt.Errorf("%q is no option: platforms=linux/amd64,linux/arm64 is", option)
		}
		if one.Platforms, err = warm.ParsePlatforms(strings.Split(value, ",")); err != nil {
			return nil, err
		}
	}
	return one, nil
}

// setFile replaces what the pins file says. p.changing is held.
func (p *Pins) setFile(lines []*pin, status FileStatus) {
	asked := make(map[string]bool)
	var changed []*pin
	var records []index.PinRecord
	p.mu.Lock()
	before := p.wanted
	p.wanted = make(map[string]*pin)
	for _, one := range lines {
		key := one.key()
		asked[key] = true
		switch known := p.pins[key]; {
		case known == nil:
			p.wanted[key] = one
			if was := before[key]; was == nil || !slices.Equal(was.Platforms, one.Platforms) {
				delete(p.attempts, key)
			}
		case known.By != byFile || !slices.Equal(known.Platforms, one.Platforms):
			now := *known
			now.By, now.Platforms, now.Until, now.Note = byFile, one.Platforms, time.Time{}, ""
			changed, records = append(changed, &now), append(records, now.record())
		}
	}
	var left []*pin
	for key, one := range p.pins {
		if one.By == byFile && !asked[key] {
			left = append(left, one)
		}
	}
	p.mu.Unlock()
	if err := p.remove("an image is unpinned: its line has left the pins file", left...); err != nil {
		status.Err = err.Error()
	}
	if len(records) > 0 {
		if err := p.o.Index.PutPins(records...); err != nil {
			status.Err, changed = err.Error(), nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range changed {
		p.pins[one.key()] = one
		delete(p.attempts, one.key())
	}
	if p.file = status; status.Err != "" {
		p.seen.read = nil // again at the next look
	}
}
