// The boundary between Python and the kernel: every array is checked here, and nothing is copied.

#include "kernel.hpp"
#include "variants.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

namespace nb = nanobind;

namespace onelayer {

void out_of_memory() { throw std::bad_alloc(); }

namespace {

// Python handles a signal only when asked to, and only in the main thread; for others there is `cancel`, a function or
// None.
constexpr std::chrono::milliseconds PAUSE(10), LONGEST_PAUSE(250);  // a page waits for the end, and who typed Ctrl-C
thread_local std::chrono::steady_clock::time_point ask_next;
thread_local nb::handle cancel;

bool asked_to_end() {
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) return true;
    if (cancel.is_none()) return false;
    PyObject *answer = PyObject_CallNoArgs(cancel.ptr());
    const int yes = answer ? PyObject_IsTrue(answer) : -1;  // -1: it raised
    Py_XDECREF(answer);
    return yes != 0;
}

// Another thread of Python may keep the interpreter for milliseconds. Then the kernel asks less often, so that it waits
// for a twentieth of the time, unless the machine is so busy that the end would be late.
bool interrupted() {
    using std::chrono::steady_clock;
    const auto begin = steady_clock::now();
    if (begin < ask_next) return false;
    const bool ends = asked_to_end();
    const auto end = steady_clock::now();
    ask_next = end + std::clamp<steady_clock::duration>(20 * (end - begin), PAUSE, LONGEST_PAUSE);
    return ends;
}

using Array = nb::ndarray<nb::ro, nb::device::cpu>;  // read-only arrays are welcome
using WritableArray = nb::ndarray<nb::device::cpu>;

[[noreturn]] void refuse(const char *name, const std::string &what) {
    throw nb::value_error((std::string(name) + " " + what).c_str());
}

// Arguments are taken as objects and converted here, because an error of nanobind's own would not name the argument.
template <class T>
T number(const char *name, nb::handle object, const char *type_name) {
    T value;
    if (!nb::try_cast<T>(object, value, true))
        throw nb::type_error((std::string(name) + " is not " + type_name).c_str());
    return value;
}

Array readable(const char *name, nb::handle object) {
    Array array;
    if (object.is_none() || !nb::try_cast<Array>(object, array, false))
        throw nb::type_error((std::string(name) + " is not an array").c_str());
    return array;
}

WritableArray writable(const char *name, nb::handle object) {
    readable(name, object);
    WritableArray array;
    if (!nb::try_cast<WritableArray>(object, array, false)) refuse(name, "is read-only");
    return array;
}

// Refuses an array that is not in C order. `by_class` allows gaps between the rows of a matrix.
template <class A>
void require_contiguous(const char *name, const A &array, size_t ndim, bool by_class) {
    if (array.ndim() != ndim)
        refuse(name, "has " + std::to_string(array.ndim()) + " dimensions; expected " + std::to_string(ndim));
    int64_t expected = 1;
    for (size_t axis = ndim; axis-- > 0;) {
        if (array.shape(axis) == 0) refuse(name, "is empty");
        const int64_t stride = array.stride(axis);
        if (array.shape(axis) != 1 && (by_class && axis == 0 ? stride < expected : stride != expected))
            refuse(name, by_class ? "has classes that do not lie in one piece each" : "is not C-contiguous");
        expected *= int64_t(array.shape(axis));
    }
}

template <class T>
nb::dlpack::dtype dtype_of() {
    if constexpr (std::is_same_v<T, Half>)
        return {uint8_t(nb::dlpack::dtype_code::Float), 16, 1};
    else
        return nb::dtype<T>();
}

// The data of an array that has this type and shape.
template <class T, class A>
auto data_of(const char *name, const char *type_name, const A &array, std::initializer_list<int64_t> shape,
             bool by_class = false) {
    if (array.dtype() != dtype_of<T>()) throw nb::type_error((std::string(name) + " is not " + type_name).c_str());
    require_contiguous(name, array, shape.size(), by_class);
    size_t axis = 0;
    for (int64_t length : shape) {
        if (length >= 0 && int64_t(array.shape(axis)) != length)
            refuse(name, "has length " + std::to_string(array.shape(axis)) + " along axis " + std::to_string(axis) +
                             "; expected " + std::to_string(length));
        ++axis;
    }
    auto *p = array.data();
    if (reinterpret_cast<uintptr_t>(p) % alignof(T)) refuse(name, "is not aligned");
    using Data = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(p)>>, const T, T>;
    return static_cast<Data *>(p);
}

// The data of a matrix whose first axis is that of the classes. Each lies in one piece, `stride` numbers from the next.
template <class T, class A>
auto by_class(const char *name, const char *type_name, const A &array, std::initializer_list<int64_t> shape,
              int64_t *stride) {
    auto *p = data_of<T>(name, type_name, array, shape, true);
    *stride = array.stride(0);
    return p;
}

void require_between(const char *name, const int64_t *values, int64_t count, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
        if (values[i] < 0 || values[i] >= end)
            refuse(name, "has " + std::to_string(values[i]) + " at " + std::to_string(i) + "; expected 0 to " +
                             std::to_string(end - 1));
}

Loss loss_named(nb::handle object) {
    const auto name = number<std::string>("loss", object, "a string");
    if (name == "softmax") return Loss::softmax;
    if (name == "sigmoid") return Loss::sigmoid;
    refuse("loss", "is neither softmax nor sigmoid");
}

// The rows of a visit; returns their number. `width` is that of images whose right halves are added to the left ones,
// or 0. Python's arguments outlive the call, and so do the arrays' data.
int64_t prepare_rows(Visit &visit, nb::handle rows_, nb::handle mean_, nb::handle scale_, nb::handle places_,
                     int64_t width = 0) {
    const Array rows = readable("rows", rows_), mean = readable("mean", mean_), scale = readable("scale", scale_),
                places = readable("places", places_);
    Rows &r = visit.rows;
    if (rows.dtype() == nb::dtype<uint8_t>()) {
        r.type = Type::uint8;
        r.data = data_of<uint8_t>("rows", "uint8", rows, {-1, -1});
    } else if (rows.dtype() == dtype_of<Half>()) {
        r.type = Type::float16;
        r.data = data_of<Half>("rows", "float16", rows, {-1, -1});
    } else {
        r.type = Type::float32;
        r.data = data_of<float>("rows", "uint8, float16 or float32", rows, {-1, -1});
    }
    const int64_t n = int64_t(rows.shape(0));
    r.stored = r.d = int64_t(rows.shape(1));
    if (width < 0 || (width > 0 && r.stored % width)) refuse("width", "does not divide the number of features");
    r.width = width;
    if (width > 0) r.d = r.stored / width * (width - width / 2);
    r.mean = data_of<double>("mean", "float64", mean, {r.d});
    r.scale = data_of<double>("scale", "float64", scale, {r.d});
    for (int64_t j = 0; j < r.d; ++j) {
        if (!std::isfinite(r.mean[j])) refuse("mean", "is not finite");
        if (!(r.scale[j] > 0)) refuse("scale", "is not positive");  // infinite where a feature is constant
    }
    visit.places = data_of<int64_t>("places", "int64", places, {-1});
    visit.count = int64_t(places.shape(0));
    require_between("places", visit.places, visit.count, n);
    visit.interrupted = interrupted;
    return n;
}

void require_weight(const double *weights, int64_t place) {
    if (!(weights[place] >= 0 && std::isfinite(float(weights[place]))))  // the products take it as a float
        refuse("row_weights", "has " + std::to_string(weights[place]) + " at " + std::to_string(place) +
                                  "; expected a number of at least 0 that is finite in float32");
}

void prepare_labels(Visit &visit, nb::handle labels, nb::handle weights, int64_t n) {
    Rows &r = visit.rows;
    r.labels = data_of<int64_t>("labels", "int64", readable("labels", labels), {n});
    if (!weights.is_none())
        r.weights = data_of<double>("row_weights", "float64", readable("row_weights", weights), {n});
    for (int64_t i = 0; i < visit.count; ++i) {  // only of the rows that are used: a memory map may be large
        const int64_t place = visit.places[i], label = r.labels[place];
        if (label < 0 || label >= visit.K)
            refuse("labels", "has " + std::to_string(label) + " at " + std::to_string(place) + "; expected 0 to " +
                                 std::to_string(visit.K - 1));
        if (r.weights) require_weight(r.weights, place);
    }
}

void require_features(int64_t of_templates, const Rows &rows) {
    if (of_templates != rows.d)
        refuse("templates", "has " + std::to_string(of_templates) + " features; rows have " + std::to_string(rows.d));
}

// Runs the kernel without the GIL, where `interrupted` can answer.
template <class Call>
void call(nb::handle cancelled, Call &&kernel_call) {
    if (!cancelled.is_none() && !PyCallable_Check(cancelled.ptr())) throw nb::type_error("cancelled is not a function");
    // A signal handler, or `cancelled` itself, may call the kernel too: what was asked then is put back.
    struct Outer {
        nb::handle cancel = onelayer::cancel;
        decltype(onelayer::ask_next) ask_next = onelayer::ask_next;
        ~Outer() { onelayer::cancel = cancel, onelayer::ask_next = ask_next; }
    } outer;
    cancel = cancelled;
    ask_next = std::chrono::steady_clock::now() + PAUSE;
    bool finished;
    {
        nb::gil_scoped_release release;
        finished = kernel_call();
    }
    if (finished) return;
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_InterruptedError, "cancelled");
    throw nb::python_error();
}

// The arguments that every pass with a loss takes first.
struct Arguments {
    nb::handle rows, labels, row_weights, mean, scale, places, templates, bias, loss;
};

template <class Pass_, class A>
void prepare(Pass_ &pass, const Arguments &a, const A &templates, const A &bias) {
    pass.templates = data_of<float>("templates", "float32", templates, {-1, -1});
    pass.K = int64_t(templates.shape(0));
    pass.bias = data_of<float>("bias", "float32", bias, {pass.K});
    const int64_t n = prepare_rows(pass, a.rows, a.mean, a.scale, a.places);
    prepare_labels(pass, a.labels, a.row_weights, n);
    require_features(int64_t(templates.shape(1)), pass.rows);
    pass.loss = loss_named(a.loss);
}

template <class Pass_>
void prepare_to_read(Pass_ &pass, const Arguments &a) {
    prepare(pass, a, readable("templates", a.templates), readable("bias", a.bias));
}

void run_epoch(const Arguments &a, nb::handle flipped, nb::handle width_, nb::handle batch_size_,
               nb::handle learning_rate_, nb::handle l2_, nb::handle momentum_, nb::handle velocity,
               nb::handle bias_velocity, nb::handle cancelled) {
    Epoch e{};
    prepare(e, a, writable("templates", a.templates), writable("bias", a.bias));
    const auto width = number<int64_t>("width", width_, "a whole number");
    const auto batch_size = number<int64_t>("batch_size", batch_size_, "a whole number");
    const auto learning_rate = number<double>("learning_rate", learning_rate_, "a number");
    const auto l2 = number<double>("l2", l2_, "a number");
    if (!flipped.is_none()) {
        const Array mask = readable("flipped", flipped);
        e.flipped = reinterpret_cast<const uint8_t *>(data_of<bool>("flipped", "bool", mask, {e.count}));
        if (width < 1 || e.rows.d % width) refuse("width", "does not divide the number of features");
        e.width = width;
    }
    const auto momentum = number<double>("momentum", momentum_, "a number");
    if (!(momentum >= 0 && momentum < 1)) refuse("momentum", "is not from 0 to 1");
    if (!velocity.is_none()) {
        e.velocity = data_of<float>("velocity", "float32", writable("velocity", velocity), {e.K, e.rows.d});
        e.bias_velocity = data_of<float>("bias_velocity", "float32", writable("bias_velocity", bias_velocity), {e.K});
    } else if (momentum) {
        refuse("velocity", "is None, with momentum");
    }
    e.momentum = float(momentum);
    if (batch_size < 1) refuse("batch_size", "is below 1");
    e.batch_size = batch_size < e.count ? batch_size : e.count;
    if (!std::isfinite(learning_rate)) refuse("learning_rate", "is not finite");
    if (!std::isfinite(l2)) refuse("l2", "is not finite");
    e.learning_rate = float(learning_rate);
    e.l2 = float(l2);
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.run_epoch(e); });
}

nb::tuple evaluate(const Arguments &a, nb::handle cancelled) {
    Evaluation e{};
    prepare_to_read(e, a);
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.evaluate(e); });
    return nb::make_tuple(e.loss_sum, e.right);
}

double objective(const Arguments &a, nb::handle gradient, nb::handle bias_gradient, nb::handle cancelled) {
    Objective o{};
    prepare_to_read(o, a);
    o.gradient = data_of<double>("gradient", "float64", writable("gradient", gradient), {o.K, o.rows.d});
    o.bias_gradient = data_of<double>("bias_gradient", "float64", writable("bias_gradient", bias_gradient), {o.K});
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.objective(o); });
    return o.loss_sum;
}

void scores(nb::handle rows, nb::handle mean, nb::handle scale, nb::handle places, nb::handle width,
            nb::handle templates_, nb::handle scores_, nb::handle cancelled) {
    Scores s{};
    const Array templates = readable("templates", templates_);
    s.templates = data_of<double>("templates", "float64", templates, {-1, -1});
    s.K = int64_t(templates.shape(0));
    prepare_rows(s, rows, mean, scale, places, number<int64_t>("width", width, "a whole number"));
    require_features(int64_t(templates.shape(1)), s.rows);
    s.scores = by_class<float>("scores", "float32", writable("scores", scores_), {s.K, s.count}, &s.stride);
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.scores(s); });
}

void gradient(nb::handle rows, nb::handle mean, nb::handle scale, nb::handle places, nb::handle width,
              nb::handle residuals_, nb::handle gradient_, nb::handle cancelled) {
    Gradient g{};
    prepare_rows(g, rows, mean, scale, places, number<int64_t>("width", width, "a whole number"));
    const Array residuals = readable("residuals", residuals_);
    g.residuals = by_class<float>("residuals", "float32", residuals, {-1, g.count}, &g.stride);
    g.K = int64_t(residuals.shape(0));
    g.gradient = data_of<double>("gradient", "float64", writable("gradient", gradient_), {g.K, g.rows.d});
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.gradient(g); });
}

void standardise(nb::handle rows, nb::handle mean, nb::handle scale, nb::handle places, nb::handle width,
                 nb::handle standardised, nb::handle cancelled) {
    Standardised s{};
    prepare_rows(s, rows, mean, scale, places, number<int64_t>("width", width, "a whole number"));
    s.rows_out = data_of<float>("standardised", "float32", writable("standardised", standardised),
                                {s.count, s.rows.d});
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.standardise(s); });
}

double probabilities(nb::handle scores_, nb::handle bias, nb::handle labels, nb::handle row_weights, nb::handle loss,
                     nb::handle probabilities_, nb::handle means, nb::handle cancelled) {
    Probabilities q{};
    const Array scores = readable("scores", scores_);
    q.scores = by_class<float>("scores", "float32", scores, {-1, -1}, &q.scores_stride);
    q.K = int64_t(scores.shape(0));
    q.n = int64_t(scores.shape(1));
    q.bias = data_of<double>("bias", "float64", readable("bias", bias), {q.K});
    q.labels = data_of<int64_t>("labels", "int64", readable("labels", labels), {q.n});
    require_between("labels", q.labels, q.n, q.K);
    q.weights = data_of<double>("row_weights", "float64", readable("row_weights", row_weights), {q.n});
    for (int64_t i = 0; i < q.n; ++i) require_weight(q.weights, i);
    q.loss = loss_named(loss);
    q.probabilities = by_class<float>("probabilities", "float32", writable("probabilities", probabilities_),
                                      {q.K, q.n}, &q.probabilities_stride);
    q.means = data_of<double>("means", "float64", writable("means", means), {q.K});
    q.interrupted = interrupted;
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.probabilities(q); });
    return q.loss_sum;
}

// The ranges along an axis of a response of some length.
const int64_t *ranges(const char *name, nb::handle object, int64_t length, int64_t *count) {
    const Array array = readable(name, object);
    const int64_t *data = data_of<int64_t>(name, "int64", array, {-1, 2});
    *count = int64_t(array.shape(0));
    for (int64_t i = 0; i < *count; ++i)
        if (data[2 * i] < 0 || data[2 * i] >= data[2 * i + 1] || data[2 * i + 1] > length)
            refuse(name, "has an empty range, or one outside the response, at " + std::to_string(i));
    return data;
}

const Window *windows_of(nb::handle object, const Patches &p, int64_t bytes) {
    static_assert(sizeof(Window) == 4 * sizeof(int64_t));
    const Array array = readable("windows", object);
    const auto *data =
        reinterpret_cast<const Window *>(data_of<int64_t>("windows", "int64", array, {p.windows, 4}));
    for (int64_t i = 0; i < p.windows; ++i) {
        const Window &q = data[i];
        if (q.down < 0 || q.down >= p.downs || q.across < 0 || q.across >= p.acrosses || q.across_of_twins < 0 ||
            q.across_of_twins >= p.acrosses || q.place < 0 || q.place > p.stride - bytes)
            refuse("windows", "has a range or a place that does not exist at " + std::to_string(i));
    }
    return data;
}

double positive(const char *name, nb::handle object) {
    const auto value = number<double>(name, object, "a number");
    if (!(value > 0 && std::isfinite(float(value)))) refuse(name, "is not a positive number that is finite in float32");
    return value;
}

void require_finite(const char *name, const float *values, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        if (!std::isfinite(values[i])) refuse(name, "is not finite");
}

void patches(nb::handle images_, nb::handle filters_, nb::handle bias, nb::handle mirrored, nb::handle epsilon,
             nb::handle threshold, nb::handle scale, nb::handle down, nb::handle across, nb::handle windows,
             nb::handle codes_, nb::handle cancelled) {
    Patches p{};
    const Array images = readable("images", images_), filters = readable("filters", filters_);
    p.images = data_of<uint8_t>("images", "uint8", images, {-1, -1, -1, -1});
    p.n = int64_t(images.shape(0)), p.c = int64_t(images.shape(1));
    p.h = int64_t(images.shape(2)), p.w = int64_t(images.shape(3));
    p.weights = data_of<float>("filters", "float32", filters, {-1, p.c, -1, -1});
    p.filters = int64_t(filters.shape(0)), p.k = int64_t(filters.shape(2));
    if (int64_t(filters.shape(3)) != p.k || p.k > p.h || p.k > p.w) refuse("filters", "are not squares inside images");
    require_finite("filters", p.weights, p.filters * p.c * p.k * p.k);
    p.bias = data_of<float>("bias", "float32", readable("bias", bias), {p.filters});
    require_finite("bias", p.bias, p.filters);
    p.mirrored = number<bool>("mirrored", mirrored, "a bool");
    if (p.mirrored && p.filters % 2) refuse("filters", "have no twins: their number is odd");
    p.epsilon = positive("epsilon", epsilon);
    p.threshold = float(positive("threshold", threshold));
    p.scale = float(positive("scale", scale));
    p.down = ranges("down", down, p.h - p.k + 1, &p.downs);
    p.across = ranges("across", across, p.w - p.k + 1, &p.acrosses);
    const WritableArray codes = writable("codes", codes_);
    p.codes = data_of<uint8_t>("codes", "uint8", codes, {p.n, -1, -1});
    p.stride = int64_t(codes.shape(1) * codes.shape(2));
    const Array table = readable("windows", windows);
    p.windows = table.ndim() ? int64_t(table.shape(0)) : 0;
    p.window = windows_of(windows, p, 2 * p.filters / (p.mirrored ? 2 : 1));
    p.interrupted = interrupted;
    const Kernel &kernel = chosen();
    call(cancelled, [&] { return kernel.patches(p); });
}

// Makes a function of the module whose Python arguments are of any type.
template <class Result, class... Handles, class... Names>
void define(nb::module_ &m, const char *name, Result (*f)(Handles...), const char *doc, Names... names) {
    m.def(name, f, nb::arg(names).none()..., doc);
}

// The same for a pass: its arguments are those of `Arguments` and `more`.
template <class Result, class... More, class... Names>
void define_pass(nb::module_ &m, const char *name, Result (*f)(const Arguments &, More...), const char *doc,
            Names... more) {
    using H = nb::handle;
    m.def(
        name,
        [f](H rows, H labels, H row_weights, H mean, H scale, H places, H templates, H bias, H loss, More... rest) {
            return f({rows, labels, row_weights, mean, scale, places, templates, bias, loss}, rest...);
        },
        nb::arg("rows").none(), nb::arg("labels").none(), nb::arg("row_weights").none(), nb::arg("mean").none(),
        nb::arg("scale").none(), nb::arg("places").none(), nb::arg("templates").none(), nb::arg("bias").none(),
        nb::arg("loss").none(), nb::arg(more).none()..., doc);
}

}  // namespace
}  // namespace onelayer

NB_MODULE(_kernel, m) {
    using namespace onelayer;
    m.doc() = "Mini-batch gradient descent, evaluation, loss with gradient, and products of a one-layer classifier.";
    m.def("variants", &variants, "The instruction sets that this machine can run, the quickest first.");
    m.def("variant", [] { return std::string(chosen().name); },
          "The instruction set in use; the environment variable ONELAYER_KERNEL chooses another.");
    define_pass(m, "run_epoch", &run_epoch, "Visit the rows in batches and update templates and bias in place.",
                "flipped", "width", "batch_size", "learning_rate", "l2", "momentum", "velocity", "bias_velocity", "cancelled");
    define_pass(m, "evaluate", &evaluate, "Return the sum of the losses, and of the weights of right answers.",
                "cancelled");
    define_pass(m, "objective", &objective,
                "Return the sum of the losses, and write the sums of its gradients into gradient and bias_gradient.",
                "gradient", "bias_gradient", "cancelled");
    define(m, "scores", &scores, "Write the products of templates and standardised rows into scores.", "rows", "mean",
           "scale", "places", "width", "templates", "scores", "cancelled");
    define(m, "gradient", &gradient, "Write the products of residuals and standardised rows into gradient.", "rows",
           "mean", "scale", "places", "width", "residuals", "gradient", "cancelled");
    define(m, "standardise", &standardise, "Write standardised rows as float32 into standardised.", "rows", "mean",
           "scale", "places", "width", "standardised", "cancelled");
    define(m, "probabilities", &probabilities,
           "Return the sum of the losses, and write probabilities and their means, from scores without the bias.",
           "scores", "bias", "labels", "row_weights", "loss", "probabilities", "means", "cancelled");
    define(m, "patches", &patches, "Write the codes of images by filters into codes.", "images", "filters", "bias",
           "mirrored", "epsilon", "threshold", "scale", "down", "across", "windows", "codes", "cancelled");
}
