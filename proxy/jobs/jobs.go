// Package jobs keeps the list of long work that an operator began, or that runs for
// the operator: what it is, how far it is, how it ended. It knows what none of it
// does.
//
// Jobs live in memory. One that a restart has ended is gone: what must go on after
// a restart (pins, schedules) has a record of its own, and starts a new one.
package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hubcap/metrics"
)

// Kind is what a job does.
type Kind string

// The kinds. metrics has the same ones.
const (
	Warm   Kind = "warm"   // fetches images
	Pin    Kind = "pin"    // fetches what is missing of a pin
	Freeze Kind = "freeze" // fetches what is missing of a frozen tag
	Repair Kind = "repair" // fetches what images lack
	Verify Kind = "verify" // hashes files
	Export Kind = "export" // writes a bundle
	Import Kind = "import" // reads a bundle
)

// State is where a job is.
type State string

// The states. The last four are ends.
const (
	Waiting   State = "waiting"
	Running   State = "running"
	Done      State = "done"
	InPart    State = "in_part" // some of its items failed
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Over reports whether the state is an end.
func (s State) Over() bool { return s != Waiting && s != Running }

// Job is a job at one moment.
type Job struct {
	ID           string    `json:"id"`
	Kind         Kind      `json:"kind"`
	What         string    `json:"what"` // in words, or the references
	State        State     `json:"state"`
	Since        time.Time `json:"since"`            // when it was asked for
	Started      time.Time `json:"started,omitzero"` // when it left the queue
	Ended        time.Time `json:"ended,omitzero"`
	Objects      int       `json:"objects"`       // done
	ObjectsTotal int       `json:"objects_total"` // grows while it is found out
	Done         int64     `json:"done"`          // bytes
	Total        int64     `json:"total"`         // bytes
	Rate         int64     `json:"rate"`          // bytes a second; 0 for one that is over
	Left         *int64    `json:"left_s,omitempty"`
	Errors       []string  `json:"errors,omitempty"` // what failed, and why it ended early
	Items        []Item    `json:"items,omitempty"`
	Pulls        []Pulls   `json:"pulls,omitempty"` // for each registry with a pull limit
}

// Item is the result for one part of a job, such as a reference.
type Item struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Result  string `json:"result"` // in words: held already; failed: manifest unknown at ghcr.io
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Detail  any    `json:"detail,omitempty"` // what the kind of job says of it: warm.Result
}

// Pulls is what a job has used of a pull limit.
type Pulls struct {
	Upstream string `json:"upstream"`
	Used     int    `json:"used"`
	Left     int    `json:"left"` // negative where the registry states no limit
}

// Work is what a job is to do.
type Work struct {
	Kind Kind
	What string
	// Run does it. It returns soon after ctx ends. The error is why it ended
	// early; what went wrong with an item is told by Task.Item.
	Run func(ctx context.Context, t *Task) error
}

// Why there is no such job, or no new one.
var (
	ErrUnknown = errors.New("there is no such job")
	ErrGone    = errors.New("hubcap has restarted since that job began, which ended it")
	ErrOver    = errors.New("the job is over")
	ErrTooMany = errors.New("too many jobs are waiting")
	ErrClosed  = errors.New("hubcap is shutting down")
)

// errCancelled is the cause of the context of a job that was cancelled.
var errCancelled = errors.New("cancelled")

// Options is what a List needs; every field but Changed is required.
type Options struct {
	AtATime int // jobs that run at a time
	Kept    int // jobs that are kept once they are over
	Waiting int // jobs that may wait
	// Changed is called with a job that has entered another state, by one
	// goroutine at a time. It must not call the List.
	Changed func(Job)
	Now     func() time.Time
	Metrics *metrics.Jobs
	Log     *slog.Logger
}

// List is all jobs. Its methods may be called at any time from any goroutine.
type List struct {
	o     Options
	boot  string // what the ids of this process begin with
	slots chan struct{}
	base  context.Context
	stop  context.CancelCauseFunc
	all   sync.WaitGroup

	told sync.Mutex // held while Changed is called; before mu

	mu     sync.Mutex
	last   int // number of the latest id
	tasks  []*Task
	closed bool
}

// New returns an empty List, which must be closed.
func New(o Options) *List {
	l := &List{o: o, boot: strconv.FormatInt(o.Now().Unix(), 36), slots: make(chan struct{}, o.AtATime)}
	l.base, l.stop = context.WithCancelCause(context.Background())
	return l
}

// Close ends all jobs and waits for them.
func (l *List) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.stop(ErrClosed)
	l.all.Wait()
}

// Start has work done behind the caller, once its turn comes. The error is
// ErrTooMany or ErrClosed.
func (l *List) Start(w Work) (Job, error) {
	t, err := l.add(l.base, w)
	if err != nil {
		return Job{}, err
	}
	l.tell(t)
	go func() {
		defer l.all.Done()
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
			_ = l.run(t) // the job says how it ended
		case <-t.ctx.Done():
			l.end(t, context.Cause(t.ctx))
		}
	}()
	return t.snapshot(), nil
}

// Do does work at once, as its caller waits for it: a stream that is written or
// read. It returns the job as it ended. The error is ErrClosed, or that of w.Run.
func (l *List) Do(ctx context.Context, w Work) (Job, error) {
	t, err := l.add(ctx, w)
	if err != nil {
		return Job{}, err
	}
	defer l.all.Done()
	defer context.AfterFunc(l.base, func() { t.cancel(ErrClosed) })()
	err = l.run(t)
	return t.snapshot(), err
}

func (l *List) add(ctx context.Context, w Work) (*Task, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := 0
	for _, t := range l.tasks {
		if t.state() == Waiting {
			waiting++
		}
	}
	switch {
	case l.closed:
		return nil, ErrClosed
	case waiting >= l.o.Waiting:
		return nil, ErrTooMany
	}
	l.last++
	t := &Task{now: l.o.Now, run: w.Run, job: Job{
		ID: l.boot + "-" + strconv.Itoa(l.last), Kind: w.Kind, What: w.What, State: Waiting, Since: l.o.Now(),
	}}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	l.tasks = append(l.tasks, t)
	l.all.Add(1)
	return t, nil
}

// run runs a task to its end.
func (l *List) run(t *Task) (err error) {
	t.update(func(j *Job) { j.State, j.Started = Running, l.o.Now() })
	l.tell(t)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			l.o.Log.Error("a job panicked", "job", t.job.ID, "kind", t.job.Kind, "panic", p, "stack", string(debug.Stack()))
		}
		l.end(t, err)
	}()
	return t.run(t.ctx, t)
}

// end ends a task; err is why it ended early.
func (l *List) end(t *Task, err error) {
	cause := context.Cause(t.ctx)
	t.update(func(j *Job) {
		j.Ended = l.o.Now()
		j.State = j.outcome(err, cause)
		if err != nil && j.State != Cancelled && !slices.Contains(j.Errors, err.Error()) {
			j.Errors = append(j.Errors, err.Error())
		}
	})
	t.cancel(nil)
	l.tell(t)
	j := t.snapshot()
	if j.State == Failed || j.State == InPart {
		l.o.Metrics.Failed(string(j.Kind))
		l.o.Log.Warn("a job has failed", "job", j.ID, "kind", j.Kind, "what", j.What, "state", j.State, "errors", strings.Join(j.Errors, "; "))
	}
	l.forget()
}

// outcome returns the state that a job has ended in; cause is why it was to end, nil
// if it was not.
func (j *Job) outcome(err, cause error) State {
	right := slices.ContainsFunc(j.Items, func(i Item) bool { return i.OK })
	wrong := slices.ContainsFunc(j.Items, func(i Item) bool { return !i.OK })
	switch {
	case err != nil && cause != nil:
		return Cancelled
	case err == nil && !wrong:
		return Done
	case right:
		return InPart
	default:
		return Failed
	}
}

// forget forgets the oldest jobs that are over, beyond those that are kept.
func (l *List) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := 0
	for i := len(l.tasks) - 1; i >= 0; i-- {
		if !l.tasks[i].state().Over() {
			continue
		}
		if over++; over > l.o.Kept {
			l.tasks = slices.Delete(l.tasks, i, i+1)
		}
	}
}

func (l *List) tell(t *Task) {
	if l.o.Changed == nil {
		return
	}
	l.told.Lock()
	defer l.told.Unlock()
	l.o.Changed(t.snapshot())
}

// All returns the jobs that wait or run, and the last ones that are over; the latest
// first.
func (l *List) All() []Job {
	l.mu.Lock()
	tasks := slices.Clone(l.tasks)
	l.mu.Unlock()
	all := make([]Job, 0, len(tasks))
	for _, t := range slices.Backward(tasks) {
		all = append(all, t.snapshot())
	}
	return all
}

// Get returns a job. The error is ErrUnknown or ErrGone.
func (l *List) Get(id string) (Job, error) {
	t, err := l.find(id)
	if err != nil {
		return Job{}, err
	}
	return t.snapshot(), nil
}

// Cancel ends a job. What it has done stays. The error is ErrUnknown, ErrGone or
// ErrOver.
func (l *List) Cancel(id string) error {
	t, err := l.find(id)
	if err != nil {
		return err
	}
	if t.state().Over() {
		return ErrOver
	}
	t.cancel(errCancelled)
	return nil
}

func (l *List) find(id string) (*Task, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tasks {
		if t.job.ID == id {
			return t, nil
		}
	}
	boot, number, ok := strings.Cut(id, "-")
	began, err := strconv.ParseInt(boot, 36, 64)
	_, notNumber := strconv.Atoi(number)
	if ok && cmp.Or(err, notNumber) == nil && boot != l.boot && began <= l.o.Now().Unix() {
		return nil, ErrGone
	}
	return nil, ErrUnknown
}
