package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"syscall"
)

// host runs cells one after the other and keeps what they have declared.
type host struct {
	tools    *toolchain
	packages string
	out      *messages
	// For sources and programs; gone with the host.
	work    string
	built   []string
	session *session

	// Of the run that goes on.
	lock    sync.Mutex
	cancel  context.CancelFunc
	program *process
	answers chan *string
	acks    chan struct{}
}

func newHost(tools string, out *messages) (*host, error) {
	t, err := openToolchain(tools)
	if err != nil {
		return nil, err
	}
	work := os.Getenv("KERNELAGENT_GO_WORK")
	packages := os.Getenv("KERNELAGENT_GO_PACKAGES")
	// They are ours, not the programs'.
	for _, name := range []string{"KERNELAGENT_GO_WORK", "KERNELAGENT_GO_PACKAGES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if work == "" {
		return nil, errors.New("KERNELAGENT_GO_WORK must be set")
	}
	return &host{
		tools: t, packages: packages, out: out, work: work, session: &session{},
		answers: make(chan *string, 1), acks: make(chan struct{}, 1),
	}, nil
}

func (h *host) close() {
	h.interrupt()
}

func (h *host) input(line *string) {
	select {
	case h.answers <- line:
	default:
	}
}

func (h *host) shown() {
	select {
	case h.acks <- struct{}{}:
	default:
	}
}

// interrupt stops the compiler or the program, whichever runs.
func (h *host) interrupt() {
	h.lock.Lock()
	defer h.lock.Unlock()
	if h.program != nil {
		h.program.interrupt()
	}
	if h.cancel != nil {
		h.cancel()
	}
}

func (h *host) answer(r request) {
	switch r.Op {
	case "run":
		h.out.reply(r.ID, h.run(r))
	case "configure":
		h.out.reply(r.ID, configure(r))
	case "complete":
		matches, start := h.complete(r.Code, r.Cursor)
		h.out.reply(r.ID, message{"matches": matches, "start": start, "end": r.Cursor})
	case "inspect":
		h.out.reply(r.ID, message{"data": h.inspect(r.Code, r.Cursor)})
	case "is_complete":
		h.out.reply(r.ID, message{"status": isComplete(r.Code)})
	case "variables":
		h.out.reply(r.ID, h.variables(r.Limit))
	default:
		h.out.reply(r.ID, message{})
	}
}

func configure(r request) message {
	if r.Cwd != nil {
		if err := os.Chdir(*r.Cwd); err != nil {
			return message{"scope_error": scopeError(*r.Cwd, err)}
		}
	}
	for name, value := range r.Env {
		if err := os.Setenv(name, value); err != nil {
			return message{"scope_error": err.Error()}
		}
	}
	for _, name := range r.Unset {
		// Only a name that cannot be set cannot be unset.
		_ = os.Unsetenv(name)
	}
	return message{}
}

func scopeError(path string, err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		text := number.Error()
		return path + ": " + strings.ToUpper(text[:1]) + text[1:]
	}
	return err.Error()
}

func (h *host) run(r request) message {
	cwd, err := os.Getwd()
	if r.Cwd != nil {
		cwd = *r.Cwd
		var info os.FileInfo
		if info, err = os.Stat(cwd); err == nil && !info.IsDir() {
			err = syscall.ENOTDIR
		}
	}
	if err != nil {
		return message{"scope_error": scopeError(cwd, err)}
	}
	env := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	maps.Copy(env, r.Env)
	ctx, cancel := context.WithCancel(context.Background())
	h.lock.Lock()
	h.cancel = cancel
	h.lock.Unlock()
	defer func() {
		h.lock.Lock()
		h.cancel = nil
		h.lock.Unlock()
		cancel()
	}()
	result := h.runIn(ctx, r, cwd, env)
	if ctx.Err() != nil {
		result = outcome{failure: &failure{"KeyboardInterrupt", "", []string{}}, exitCode: 130}
	}
	return result.message()
}

func (h *host) runIn(ctx context.Context, r request, cwd string, env map[string]string) outcome {
	if strings.TrimSpace(r.Code) == "" {
		return outcome{}
	}
	tools := h.tools.environment(env)
	if isProgram(r.Code) {
		path, err := h.build(ctx, r.Code, cellName(running)+".go", r.Count, cwd, tools)
		if err != nil {
			return notBuilt(ctx, err, newCell(r.Count, r.Code))
		}
		return h.execute(ctx, r, path, cwd, environ(env))
	}
	c := newCell(r.Count, r.Code)
	p, err := parse(c)
	if err != nil {
		return notBuilt(ctx, err, c)
	}
	next, err := h.session.with(p)
	if err != nil {
		return notBuilt(ctx, err, c)
	}
	made, err := h.generate(next, p)
	if err != nil {
		return notBuilt(ctx, err, c)
	}
	if r.Silent && p.result != nil {
		made.text = strings.Replace(made.text, "ka_session.Result(", "func(...any) {}(", 1)
		made.text = strings.Replace(made.text, "import ka_session \"kernelagent/session\"\n", "", 1)
	}
	if !p.runs() && h.suffices(made.text) {
		// Declarations that have passed the check need no program.
		h.session = next
		next.settle()
		return outcome{}
	}
	path, err := h.build(ctx, made.text, "main.go", r.Count, cwd, tools)
	if err != nil {
		return notBuilt(ctx, err, c)
	}
	h.session = next
	next.settle()
	return h.execute(ctx, r, path, cwd, environ(env))
}

// notBuilt is a cell that did not compile: each error with its line of the cell.
func notBuilt(ctx context.Context, err error, c *cell) outcome {
	if ctx.Err() != nil {
		return outcome{}
	}
	var bad complaints
	if !errors.As(err, &bad) {
		return failed("BuildError", err.Error(), err.Error())
	}
	var trace []string
	for _, found := range bad {
		text := found.describe()
		trace = append(trace, text)
		var line, column int
		where, _, _ := strings.Cut(strings.TrimPrefix(text, cellName(c.count)), " ")
		if n, _ := fmt.Sscanf(where, ":%d:%d", &line, &column); n > 0 && c.line(line) != "" {
			source := c.line(line)
			trace = append(trace, "    "+source)
			if column > 0 && column <= len(source)+1 {
				indent := strings.Map(func(r rune) rune {
					if r == '\t' {
						return r
					}
					return ' '
				}, source[:min(column-1, len(source))])
				trace = append(trace, "    "+indent+"^")
			}
		}
	}
	value := bad[0].describe()
	if len(bad) > 1 {
		value = fmt.Sprintf("%s (and %d more)", value, len(bad)-1)
	}
	return failed("CompileError", value, append(trace, "CompileError: "+value)...)
}

func writeJSON(path string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
